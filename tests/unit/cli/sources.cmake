set(service_cores ${CMAKE_SOURCE_DIR}/cli/supervise.c ${CMAKE_SOURCE_DIR}/cli/args.c ${CMAKE_SOURCE_DIR}/cli/output.c ${CMAKE_SOURCE_DIR}/cli/log_file.c ${CMAKE_SOURCE_DIR}/cli/platform.c)
