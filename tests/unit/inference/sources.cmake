set(service_cores ${CMAKE_SOURCE_DIR}/services/inference/request.c ${CMAKE_SOURCE_DIR}/services/inference/budget.c ${CMAKE_SOURCE_DIR}/tests/unit/engine/support/tiny.c)
