set(gateway ${CMAKE_SOURCE_DIR}/services/gateway)
set(service_cores ${gateway}/generate_request.c ${gateway}/chat.c ${gateway}/completions.c ${gateway}/answer.c ${gateway}/routing.c ${gateway}/router.c ${gateway}/relay_pack.c
    ${gateway}/feedback_request.c ${gateway}/trace.c ${gateway}/cors.c ${gateway}/coding.c ${gateway}/unbuilt_request.c ${gateway}/tokenize_request.c)
