# What a target needs of the services: SOURCES_fuzz_NAME.
set(services ${CMAKE_SOURCE_DIR}/services)
set(ingest_cores)
foreach(core attempts card clean detect entities extract_html extract_markdown extract_mdoc extract_rows extract_source extract_text extract_troff gunzip language manifest
             normalise pairs personal quality reasons shards text)
  list(APPEND ingest_cores ${services}/ingest/${core}.c)
endforeach()
set(SOURCES_fuzz_document ${ingest_cores})
set(SOURCES_fuzz_rows ${ingest_cores})
set(SOURCES_fuzz_gunzip ${ingest_cores})
set(SOURCES_fuzz_generate_request ${services}/gateway/generate_request.c ${services}/gateway/chat.c ${services}/gateway/completions.c)
set(SOURCES_fuzz_route ${services}/gateway/router.c)
set(SOURCES_fuzz_feedback_json ${services}/feedback/feedback_json.c ${services}/feedback/pairs.c ${services}/gateway/feedback_request.c)
set(SOURCES_fuzz_registry ${services}/feedback/audit.c ${services}/feedback/ledger.c)
