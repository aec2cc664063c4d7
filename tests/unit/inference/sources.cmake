set(service_cores ${CMAKE_SOURCE_DIR}/services/inference/request.c)
