/* A row for each method of proto/: adding one there is adding it here, and a test holds the two together. */
#include "grpc.h"
#include "routes.h"

#include "genloop/v1/generation.pb-c.h"
#include "genloop/v1/keys.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

#define MESSAGE(NAME) &genloop__v1__##NAME##__descriptor
/* Package genloop.v1; what is passed on is asked of SERVICE by the same name. */
#define METHOD(NAME, SCOPE, HANDLE, SERVICE, REQUEST, REPLY, ...)                                                                                                       \
    {.route = {"POST", "/genloop.v1." NAME, SCOPE, BODY_STREAM, grpc_handle, "", NULL}, .handle = HANDLE,                                                              \
     .relay = {.service = SERVICE, .method = NAME, .request = MESSAGE(REQUEST), .reply = MESSAGE(REPLY)}, __VA_ARGS__}
#define UNARY .client_stream = false
#define SERVER .server_stream = true, .relay.stream = RELAY_EVENTS
#define CLIENT .client_stream = true
#define HEALTH(NAME, HANDLE, ...)                                                                                                                                       \
    {.route = {"POST", "/grpc.health.v1.Health/" NAME, SCOPE_ANY, BODY_STREAM, grpc_handle, "", NULL}, .handle = HANDLE,                                               \
     .relay = {.request = &grpc__health__v1__health_check_request__descriptor, .reply = &grpc__health__v1__health_check_response__descriptor}, __VA_ARGS__}
#define REFLECTION(VERSION)                                                                                                                                             \
    {.route = {"POST", "/grpc.reflection." VERSION ".ServerReflection/ServerReflectionInfo", SCOPE_ANY, BODY_STREAM, grpc_handle, "", NULL}, .handle = reflection_info, \
     .relay = {.request = &grpc__reflection__v1__server_reflection_request__descriptor, .reply = &grpc__reflection__v1__server_reflection_response__descriptor},       \
     .client_stream = true, .server_stream = true}

const struct grpc_method GRPC_METHODS[] = {
    METHOD("Generation/Generate", SCOPE_CLIENT, generation_call, NULL, generate_request, generate_reply, UNARY),
    METHOD("Generation/GenerateStream", SCOPE_CLIENT, generation_call, NULL, generate_request, generate_reply, SERVER),
    METHOD("Generation/Embed", SCOPE_CLIENT, embed_call, NULL, embed_request, embed_reply, UNARY),
    METHOD("Generation/Rerank", SCOPE_CLIENT, rerank_call, NULL, rerank_request, rerank_reply, UNARY),
    METHOD("Generation/GenerateImage", SCOPE_CLIENT, grpc_not_built, NULL, generate_image_request, generate_image_reply, UNARY),
    METHOD("Generation/GenerateTable", SCOPE_CLIENT, grpc_not_built, NULL, generate_table_request, generate_table_reply, SERVER),
    METHOD("Generation/GenerateAudio", SCOPE_CLIENT, grpc_not_built, NULL, generate_audio_request, generate_audio_reply, SERVER),

    METHOD("Ingest/Upload", SCOPE_OPERATOR, grpc_uplink, "ingest", upload_request, upload_reply, CLIENT),
    METHOD("Ingest/Watch", SCOPE_OPERATOR, grpc_relay, "ingest", watch_dataset_request, dataset_progress, SERVER),
    METHOD("Ingest/Build", SCOPE_OPERATOR, grpc_relay, "ingest", build_dataset_request, dataset_progress, .server_stream = true, .relay.stream = RELAY_EVENTS_ASKED),
    METHOD("Ingest/GetDataset", SCOPE_OPERATOR, grpc_relay, "ingest", get_dataset_request, get_dataset_reply, UNARY),
    METHOD("Ingest/ListDatasets", SCOPE_OPERATOR, grpc_relay, "ingest", page_request, list_datasets_reply, UNARY),
    METHOD("Ingest/ListDocuments", SCOPE_OPERATOR, grpc_relay, "ingest", list_documents_request, list_documents_reply, UNARY),
    METHOD("Ingest/RemoveDataset", SCOPE_OPERATOR, grpc_relay, "ingest", remove_dataset_request, dataset, UNARY),
    METHOD("Ingest/ListRows", SCOPE_OPERATOR, grpc_relay, "ingest", list_rows_request, list_rows_reply, UNARY),
    METHOD("Ingest/UploadFile", SCOPE_CLIENT, grpc_uplink, "ingest", upload_request, file, CLIENT),
    METHOD("Ingest/ListFiles", SCOPE_CLIENT, grpc_relay, "ingest", list_files_request, list_files_reply, UNARY),
    METHOD("Ingest/GetFile", SCOPE_CLIENT, grpc_relay, "ingest", get_file_request, file, UNARY),
    METHOD("Ingest/ReadFile", SCOPE_CLIENT, grpc_relay, "ingest", read_file_request, read_file_reply, UNARY),
    METHOD("Ingest/DeleteFile", SCOPE_CLIENT, grpc_relay, "ingest", get_file_request, file, UNARY),
    METHOD("Ingest/DatasetFromFiles", SCOPE_OPERATOR, grpc_relay, "ingest", dataset_from_files_request, dataset, UNARY),

    METHOD("Ingest/CreateBatch", SCOPE_CLIENT, grpc_relay, "ingest", create_batch_request, batch, UNARY),
    METHOD("Ingest/GetBatch", SCOPE_CLIENT, grpc_relay, "ingest", get_batch_request, batch, UNARY),
    METHOD("Ingest/ListBatches", SCOPE_CLIENT, grpc_relay, "ingest", list_batches_request, list_batches_reply, UNARY),
    METHOD("Ingest/CancelBatch", SCOPE_CLIENT, grpc_relay, "ingest", get_batch_request, batch, UNARY),

    METHOD("Training/Create", SCOPE_OPERATOR, grpc_relay, "trainer", create_job_request, job, UNARY),
    METHOD("Training/Get", SCOPE_OPERATOR, grpc_relay, "trainer", get_job_request, job, UNARY),
    METHOD("Training/List", SCOPE_OPERATOR, grpc_relay, "trainer", page_request, list_jobs_reply, UNARY),
    METHOD("Training/Watch", SCOPE_OPERATOR, grpc_relay, "trainer", watch_job_request, watch_job_reply, SERVER),
    METHOD("Training/Cancel", SCOPE_OPERATOR, grpc_relay, "trainer", get_job_request, job, UNARY),
    METHOD("Training/Change", SCOPE_OPERATOR, grpc_relay, "trainer", change_job_request, job, UNARY),
    METHOD("Training/ListFineTuning", SCOPE_OPERATOR, grpc_relay, "trainer", list_fine_tuning_request, list_fine_tuning_reply, UNARY),
    METHOD("Training/ListEvents", SCOPE_OPERATOR, grpc_relay, "trainer", list_job_events_request, list_job_events_reply, UNARY),

    METHOD("Feedback/Submit", SCOPE_CLIENT, grpc_relay, "feedback", submit_feedback_request, submit_feedback_reply, UNARY),
    METHOD("Feedback/SubmitStream", SCOPE_CLIENT, grpc_uplink, "feedback", submit_feedback_request, submit_feedback_summary, CLIENT),
    METHOD("Feedback/List", SCOPE_OPERATOR, grpc_relay, "feedback", page_request, list_feedback_reply, UNARY),

    METHOD("Models/List", SCOPE_OPERATOR, grpc_relay, "feedback", page_request, list_models_reply, UNARY),
    METHOD("Models/Get", SCOPE_OPERATOR, grpc_relay, "feedback", get_model_request, model_detail, UNARY),
    METHOD("Models/Transition", SCOPE_APPROVER, grpc_relay, "feedback", transition_request, model_version, UNARY),
    METHOD("Models/Watch", SCOPE_OPERATOR, grpc_relay, "feedback", watch_models_request, model_version, SERVER),
    METHOD("Models/Evaluate", SCOPE_OPERATOR, grpc_relay, "feedback", evaluate_model_request, job, UNARY),
    METHOD("Models/ReadFile", SCOPE_OPERATOR, grpc_relay, "feedback", read_model_file_request, read_model_file_reply, UNARY),
    METHOD("Models/EvaluationRecord", SCOPE_OPERATOR, grpc_relay, "feedback", evaluation_record_request, evaluation_record_reply, UNARY),
    METHOD("Models/ImproveNow", SCOPE_OPERATOR, grpc_relay, "feedback", improve_request, job, UNARY),

    METHOD("Audit/List", SCOPE_OPERATOR, grpc_relay, "feedback", page_request, list_audit_reply, UNARY),
    METHOD("Audit/Head", SCOPE_OPERATOR, grpc_relay, "feedback", page_request, audit_head, UNARY),
    METHOD("Audit/Prove", SCOPE_OPERATOR, grpc_relay, "feedback", audit_proof_request, audit_proof, UNARY),

    METHOD("Keys/Create", SCOPE_OPERATOR, grpc_relay, "feedback", create_key_request, create_key_reply, UNARY),
    METHOD("Keys/List", SCOPE_OPERATOR, grpc_relay, "feedback", page_request, list_keys_reply, UNARY),
    METHOD("Keys/Revoke", SCOPE_OPERATOR, grpc_relay, "feedback", revoke_key_request, api_key, UNARY),

    METHOD("Subjects/Erase", SCOPE_OPERATOR, grpc_relay, "feedback", erase_subject_request, erasure, UNARY),

    METHOD("Operations/Replicas", SCOPE_OPERATOR, operations_replicas, NULL, replicas_request, replicas_reply, UNARY),
    METHOD("Operations/Scale", SCOPE_OPERATOR, operations_scale, NULL, scale_request, scale_reply, UNARY),
    METHOD("Operations/Drain", SCOPE_OPERATOR, operations_drain, NULL, drain_request, drain_reply, UNARY),

    HEALTH("Check", health_check, UNARY),
    HEALTH("Watch", health_watch, SERVER),
    REFLECTION("v1"),
    REFLECTION("v1alpha"),
};
const size_t GRPC_METHODS_COUNT = sizeof GRPC_METHODS / sizeof *GRPC_METHODS;
