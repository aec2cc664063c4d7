set(gateway ${CMAKE_SOURCE_DIR}/services/gateway)
set(service_cores ${gateway}/generate_request.c ${gateway}/chat.c ${gateway}/completions.c ${gateway}/answer.c ${gateway}/routing.c ${gateway}/prefixes.c ${gateway}/router.c ${gateway}/pages.c ${gateway}/relay_pack.c
    ${gateway}/feedback_request.c ${gateway}/trace.c ${gateway}/cors.c ${gateway}/coding.c ${gateway}/request_shape.c ${gateway}/tokenize_request.c
    ${gateway}/generate_message.c ${gateway}/grpc_wire.c ${gateway}/grpc_reflection.c ${gateway}/console_choose.c)
# The table of methods names its handlers, which its test stands in for.
if(target STREQUAL "test_gateway_grpc_reflection")
  list(APPEND service_cores ${gateway}/grpc_methods.c)
endif()
list(APPEND service_cores ${gateway}/fine_tuning_request.c)
list(APPEND service_cores ${gateway}/idempotency_record.c ${gateway}/openapi.c ${gateway}/openapi_doors.c)
list(APPEND service_cores ${gateway}/encode_request.c ${gateway}/response_request.c ${gateway}/response_answer.c ${gateway}/response_seal.c)
