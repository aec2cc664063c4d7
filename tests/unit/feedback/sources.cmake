set(service_cores)
foreach(core audit feedback_json keys ledger pairs policy registry)
  list(APPEND service_cores ${CMAKE_SOURCE_DIR}/services/feedback/${core}.c)
endforeach()
