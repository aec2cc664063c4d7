set(service_cores)
foreach(name IN ITEMS args client hub hub_files log_file output platform sse supervise walk)
  list(APPEND service_cores ${CMAKE_SOURCE_DIR}/cli/${name}.c)
endforeach()
