set(service_cores ${CMAKE_SOURCE_DIR}/services/trainer/measure.c ${CMAKE_SOURCE_DIR}/services/trainer/measure_rows.c ${CMAKE_SOURCE_DIR}/services/trainer/jobs.c ${CMAKE_SOURCE_DIR}/services/trainer/request.c
                  ${CMAKE_SOURCE_DIR}/services/trainer/presets.c ${CMAKE_SOURCE_DIR}/services/trainer/work.c ${CMAKE_SOURCE_DIR}/tests/unit/engine/support/tiny.c)
