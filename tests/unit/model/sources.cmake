set(service_cores ${CMAKE_SOURCE_DIR}/tests/unit/engine/support/tiny.c)
