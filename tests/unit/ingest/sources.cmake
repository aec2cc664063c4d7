set(service_cores)
foreach(core attempts batch_lines card clean detect entities extract_html extract_markdown extract_mdoc extract_rows extract_source extract_text extract_troff gunzip language manifest
             file_rows normalise pairs personal quality reasons rows shards text)
  list(APPEND service_cores ${CMAKE_SOURCE_DIR}/services/ingest/${core}.c)
endforeach()
