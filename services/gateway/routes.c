#include "routes.h"

#include "genloop/v1/keys.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "relay.h"
#include "request_shape.h"

#define REQUEST(NAME) &genloop__v1__##NAME##__descriptor
#define PAGE page_fields
static const char *const page_fields[] = {"limit", "page_token", NULL};
static const char *const state_fields[] = {"dataset", "state", NULL};
static const char *const proof_fields[] = {"index", "from_size", "tree_size", NULL};
static const char *const record_fields[] = {"id", "offset", NULL};
static const char *const file_fields[] = {"path", "offset", NULL};
static const char *const row_fields[] = {"split", "kind", "offset", "limit", "seed", NULL};
static const char *const from_step[] = {"from_step", NULL};

/* ingest */
static const struct relay LIST_DOCUMENTS = {"ingest", "Ingest/ListDocuments", REQUEST(list_documents_request), REQUEST(list_documents_reply), .query = state_fields, .page = true};
static const struct relay LIST_DATASETS = {"ingest", "Ingest/ListDatasets", REQUEST(page_request), REQUEST(list_datasets_reply), .query = PAGE};
static const struct relay GET_DATASET = {"ingest", "Ingest/GetDataset", REQUEST(get_dataset_request), REQUEST(get_dataset_reply), .path_field = "name"};
static const struct relay WATCH_DATASET = {"ingest", "Ingest/Watch", REQUEST(watch_dataset_request), REQUEST(dataset_progress), .path_field = "dataset", .stream = RELAY_EVENTS};
static const struct relay BUILD_DATASET = {"ingest", "Ingest/Build", REQUEST(build_dataset_request), REQUEST(dataset_progress), .path_field = "dataset", .stream = RELAY_EVENTS_ASKED};
static const struct relay REMOVE_DATASET = {"ingest", "Ingest/RemoveDataset", REQUEST(remove_dataset_request), REQUEST(dataset), .path_field = "name"};
static const struct relay LIST_ROWS = {"ingest", "Ingest/ListRows", REQUEST(list_rows_request), REQUEST(list_rows_reply), .path_field = "name", .query = row_fields};
/* trainer */
static const struct relay CREATE_JOB = {"trainer", "Training/Create", REQUEST(create_job_request), REQUEST(job), .stream = RELAY_UNARY};
static const struct relay LIST_JOBS = {"trainer", "Training/List", REQUEST(page_request), REQUEST(list_jobs_reply), .query = PAGE};
static const struct relay GET_JOB = {"trainer", "Training/Get", REQUEST(get_job_request), REQUEST(job), .path_field = "id"};
static const struct relay WATCH_JOB = {"trainer", "Training/Watch", REQUEST(watch_job_request), REQUEST(watch_job_reply), .path_field = "id", .query = from_step, .stream = RELAY_EVENTS};
static const struct relay CANCEL_JOB = {"trainer", "Training/Cancel", REQUEST(get_job_request), REQUEST(job), .path_field = "id"};
static const struct relay PAUSE_JOB = {"trainer", "Training/Change", REQUEST(change_job_request), REQUEST(job), .path_field = "id", .fixed_field = "wish", .fixed_value = GENLOOP__V1__JOB_WISH__JOB_WISH_PAUSE};
static const struct relay RESUME_JOB = {"trainer", "Training/Change", REQUEST(change_job_request), REQUEST(job), .path_field = "id", .fixed_field = "wish", .fixed_value = GENLOOP__V1__JOB_WISH__JOB_WISH_RUN};
/* feedback */
static const struct relay LIST_FEEDBACK = {"feedback", "Feedback/List", REQUEST(page_request), REQUEST(list_feedback_reply), .query = PAGE};
static const struct relay LIST_MODELS = {"feedback", "Models/List", REQUEST(page_request), REQUEST(list_models_reply), .query = PAGE};
static const struct relay GET_MODEL = {"feedback", "Models/Get", REQUEST(get_model_request), REQUEST(model_detail), .path_field = "model"};
static const struct relay WATCH_MODELS = {"feedback", "Models/Watch", REQUEST(watch_models_request), REQUEST(model_version), .path_field = "name", .stream = RELAY_EVENTS};
#define TRANSITION(NAME, WORD)                                                                                                                                       \
    static const struct relay NAME = {"feedback", "Models/Transition", REQUEST(transition_request), REQUEST(model_version), .path_field = "model", .fixed_field = "transition", \
                                      .fixed_value = GENLOOP__V1__TRANSITION__TRANSITION_##WORD, .by_field = "by"}
TRANSITION(APPROVE, APPROVE);
TRANSITION(REJECT, REJECT);
TRANSITION(CANARY, CANARY);
TRANSITION(PROMOTE, PROMOTE);
TRANSITION(ROLLBACK, ROLLBACK);
TRANSITION(RETIRE, RETIRE);
static const struct relay EVALUATE = {"feedback", "Models/Evaluate", REQUEST(evaluate_model_request), REQUEST(job), .path_field = "model"};
static const struct relay EVALUATION_RECORD = {"feedback", "Models/EvaluationRecord", REQUEST(evaluation_record_request), REQUEST(evaluation_record_reply), .path_field = "model", .query = record_fields};
static const struct relay MODEL_FILE = {"feedback", "Models/ReadFile", REQUEST(read_model_file_request), REQUEST(read_model_file_reply), .path_field = "model", .query = file_fields};
static const struct relay IMPROVE = {"feedback", "Models/ImproveNow", REQUEST(improve_request), REQUEST(job), .path_field = "model"};
static const struct relay CREATE_KEY = {"feedback", "Keys/Create", REQUEST(create_key_request), REQUEST(create_key_reply), .stream = RELAY_UNARY};
static const struct relay LIST_KEYS = {"feedback", "Keys/List", REQUEST(page_request), REQUEST(list_keys_reply), .query = PAGE};
static const struct relay REVOKE_KEY = {"feedback", "Keys/Revoke", REQUEST(revoke_key_request), REQUEST(api_key), .path_field = "id"};
static const struct relay ERASE_SUBJECT = {"feedback", "Subjects/Erase", REQUEST(erase_subject_request), REQUEST(erasure), .stream = RELAY_UNARY};
static const struct relay LIST_AUDIT = {"feedback", "Audit/List", REQUEST(page_request), REQUEST(list_audit_reply), .query = PAGE};
static const struct relay AUDIT_HEAD = {"feedback", "Audit/Head", REQUEST(page_request), REQUEST(audit_head), .stream = RELAY_UNARY};
static const struct relay AUDIT_PROOF = {"feedback", "Audit/Prove", REQUEST(audit_proof_request), REQUEST(audit_proof), .query = proof_fields};

/* the gateway itself */
static const struct relay REPLICAS = {NULL, NULL, REQUEST(replicas_request), REQUEST(replicas_reply), .stream = RELAY_UNARY};
static const struct relay SCALE = {NULL, NULL, REQUEST(scale_request), REQUEST(scale_reply), .stream = RELAY_UNARY};
static const struct relay DRAIN = {NULL, NULL, REQUEST(drain_request), REQUEST(drain_reply), .path_field = "replica"};

/* Literal patterns stand before those with parameters that would take their place. /livez, /readyz and /metrics are answered by lib/service. */
const struct route ROUTES[] = {
    {"GET", "/v1/models", SCOPE_CLIENT, BODY_NONE, models_list, "The models that are released, under every name that a request may give them.", NULL},
    {"GET", "/v1/models/{model}", SCOPE_CLIENT, BODY_NONE, models_get, "One model, by name, name@version or alias.", NULL},
    {"POST", "/v1/chat/completions", SCOPE_CLIENT, BODY_JSON, chat_create, "An answer to a conversation, whole or as a stream of events.", NULL},
    {"POST", "/v1/completions", SCOPE_CLIENT, BODY_JSON, completion_create, "How a text goes on, whole or as a stream of events.", NULL},
    {"POST", "/v1/tokenize", SCOPE_CLIENT, BODY_JSON, tokenize_create, "A text or a conversation as the model's token ids.", NULL},
    {"POST", "/v1/detokenize", SCOPE_CLIENT, BODY_JSON, detokenize_create, "Token ids as text.", NULL},
    {"POST", "/v1/responses", SCOPE_CLIENT, BODY_JSON, responses_create, "A response to a text or to the items of a conversation, whole or as a stream of events; kept for what refers to it, unless \"store\" is false.", NULL},
    {"GET", "/v1/responses/{response_id}", SCOPE_CLIENT, BODY_NONE, responses_get, "A response that is kept.", NULL},
    {"DELETE", "/v1/responses/{response_id}", SCOPE_CLIENT, BODY_NONE, responses_delete, "Remove a response that is kept.", NULL},
    {"GET", "/v1/responses/{response_id}/input_items", SCOPE_CLIENT, BODY_NONE, responses_items, "What a response answered, with the conversation before it, newest first: ?after=&limit=&order=.", NULL},
    {"POST", "/v1/embeddings", SCOPE_CLIENT, BODY_JSON, embeddings_create, "Vectors of texts, of length 1.", NULL},
    {"POST", "/v1/rerank", SCOPE_CLIENT, BODY_JSON, rerank_create, "Documents in the order of their relevance to a query.", NULL},
    {"POST", "/v1/score", SCOPE_CLIENT, BODY_JSON, score_create, "How well pairs of texts go together.", NULL},
    {"POST", "/v1/classify", SCOPE_CLIENT, BODY_JSON, classify_create, "Classes of texts, with the probability of each.", NULL},
    {"POST", "/v1/messages", SCOPE_CLIENT, BODY_JSON, unbuilt_call, "Anthropic's messages. Not built yet: the request is checked.", &SHAPE_MESSAGES},
    {"POST", "/v1/moderations", SCOPE_CLIENT, BODY_JSON, moderations_create, "Moderation by a classifier: its labels are the categories.", NULL},
    {"POST", "/v1/images/generations", SCOPE_CLIENT, BODY_JSON, unbuilt_call, "Images from a text. Not built yet: the request is checked.", &SHAPE_IMAGES},
    {"POST", "/v1/images/edits", SCOPE_CLIENT, BODY_STREAM, unbuilt_form, "Edits of an image, as a form. Not built yet: the request is checked.", &SHAPE_IMAGE_EDITS},
    {"POST", "/v1/audio/speech", SCOPE_CLIENT, BODY_JSON, unbuilt_call, "Sound from a text. Not built yet: the request is checked.", &SHAPE_SPEECH},
    {"POST", "/v1/tables", SCOPE_CLIENT, BODY_JSON, unbuilt_call, "Synthetic rows. Not built yet: the request is checked.", &SHAPE_TABLES},
    {"POST", "/v1/batches", SCOPE_CLIENT, BODY_JSON, batches_create, "Answer the requests of a file of purpose batch, when there is nothing more urgent to do.", NULL},
    {"GET", "/v1/batches", SCOPE_CLIENT, BODY_NONE, batches_list, "Batches, newest first: ?after=&limit=.", NULL},
    {"GET", "/v1/batches/{batch_id}", SCOPE_CLIENT, BODY_NONE, batches_get, "A batch, with how far it is.", NULL},
    {"POST", "/v1/batches/{batch_id}/cancel", SCOPE_CLIENT, BODY_JSON_OR_EMPTY, batches_cancel, "Cancel a batch: what is answered already is in its files.", NULL},
    {"GET", "/v1/monitoring", SCOPE_OPERATOR, BODY_NONE, unbuilt_call, "What the monitors say. Not built yet.", &SHAPE_MONITORING},
    {"POST", "/v1/feedback", SCOPE_CLIENT, BODY_JSON, feedback_submit, "Judge an answer: thumb, rating, preference or correction.", NULL},
    {"GET", "/v1/feedback", SCOPE_OPERATOR, BODY_NONE, relay_call, "Judgements, newest first, without what people wrote.", &LIST_FEEDBACK},
    {"POST", "/v1/files", SCOPE_CLIENT, BODY_STREAM, files_upload, "Upload a file: a form with the parts file and purpose (fine-tune, batch, model).", NULL},
    {"GET", "/v1/files", SCOPE_CLIENT, BODY_NONE, files_list, "Files, newest first: ?purpose=&after=&limit=&order=.", NULL},
    {"GET", "/v1/files/{file_id}", SCOPE_CLIENT, BODY_NONE, files_get, "A file.", NULL},
    {"DELETE", "/v1/files/{file_id}", SCOPE_CLIENT, BODY_NONE, files_delete, "Delete a file.", NULL},
    {"GET", "/v1/files/{file_id}/content", SCOPE_CLIENT, BODY_NONE, files_content, "The bytes of a file.", NULL},
    {"POST", "/v1/fine_tuning/jobs", SCOPE_CLIENT, BODY_JSON, fine_tuning_create, "Fine-tune a model on files: supervised or dpo. What comes of it is a candidate: its gates and a person release it.", NULL},
    {"GET", "/v1/fine_tuning/jobs", SCOPE_CLIENT, BODY_NONE, fine_tuning_list, "Fine-tuning jobs, newest first: ?after=&limit=&metadata[KEY]=.", NULL},
    {"GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}", SCOPE_CLIENT, BODY_NONE, fine_tuning_get, "A fine-tuning job.", NULL},
    {"GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/events", SCOPE_CLIENT, BODY_NONE, fine_tuning_events, "What happened to a job, newest first: ?after=&limit=.", NULL},
    {"GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints", SCOPE_CLIENT, BODY_NONE, fine_tuning_checkpoints, "The models that a job left.", NULL},
    {"POST", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel", SCOPE_CLIENT, BODY_JSON_OR_EMPTY, fine_tuning_cancel, "Cancel a fine-tuning job.", NULL},
    {"POST", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/pause", SCOPE_CLIENT, BODY_JSON_OR_EMPTY, fine_tuning_pause, "Pause a fine-tuning job at its next step.", NULL},
    {"POST", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/resume", SCOPE_CLIENT, BODY_JSON_OR_EMPTY, fine_tuning_resume, "Go on with a paused fine-tuning job.", NULL},
    {"POST", "/v1/documents", SCOPE_OPERATOR, BODY_STREAM, document_upload, "Upload a document: the raw body or the file of a form, ?dataset=NAME&source=FILE.", NULL},
    {"GET", "/v1/documents", SCOPE_OPERATOR, BODY_NONE, relay_call, "The documents of ?dataset=NAME, with their state.", &LIST_DOCUMENTS},
    {"GET", "/v1/datasets", SCOPE_OPERATOR, BODY_NONE, relay_call, "Datasets and their versions.", &LIST_DATASETS},
    {"GET", "/v1/datasets/{name}", SCOPE_OPERATOR, BODY_NONE, relay_call, "A dataset with its manifest and data card, by name or name@version.", &GET_DATASET},
    {"DELETE", "/v1/datasets/{name}", SCOPE_OPERATOR, BODY_NONE, relay_call, "Remove a dataset, or one version of it.", &REMOVE_DATASET},
    {"GET", "/v1/datasets/{name}/watch", SCOPE_OPERATOR, BODY_NONE, relay_call, "How a dataset fills, as a stream of events.", &WATCH_DATASET},
    {"GET", "/v1/datasets/{name}/rows", SCOPE_OPERATOR, BODY_NONE, relay_call, "Rows of a version: ?split=train|held_out&kind=samples|pairs&offset=&limit=&seed=.", &LIST_ROWS},
    {"POST", "/v1/datasets/{name}/versions", SCOPE_OPERATOR, BODY_JSON_OR_EMPTY, relay_call, "Build a version: progress as events where text/event-stream is accepted, else the end.", &BUILD_DATASET},
    {"POST", "/v1/admin/jobs", SCOPE_OPERATOR, BODY_JSON, relay_call, "Create a training or evaluation job.", &CREATE_JOB},
    {"GET", "/v1/admin/jobs", SCOPE_OPERATOR, BODY_NONE, relay_call, "Jobs, newest first.", &LIST_JOBS},
    {"GET", "/v1/admin/jobs/{id}", SCOPE_OPERATOR, BODY_NONE, relay_call, "A job.", &GET_JOB},
    {"GET", "/v1/admin/jobs/{id}/watch", SCOPE_OPERATOR, BODY_NONE, relay_call, "A job's states and steps, as a stream of events.", &WATCH_JOB},
    {"POST", "/v1/admin/jobs/{id}/cancel", SCOPE_OPERATOR, BODY_JSON_OR_EMPTY, relay_call, "Cancel a job.", &CANCEL_JOB},
    {"POST", "/v1/admin/jobs/{id}/pause", SCOPE_OPERATOR, BODY_JSON_OR_EMPTY, relay_call, "Pause a job at its next step.", &PAUSE_JOB},
    {"POST", "/v1/admin/jobs/{id}/resume", SCOPE_OPERATOR, BODY_JSON_OR_EMPTY, relay_call, "Go on with a paused job.", &RESUME_JOB},
    {"GET", "/v1/admin/models", SCOPE_OPERATOR, BODY_NONE, relay_call, "Every version of every model, and the aliases.", &LIST_MODELS},
    {"GET", "/v1/admin/models/{model}", SCOPE_OPERATOR, BODY_NONE, relay_call, "A version with its evaluations and every transition.", &GET_MODEL},
    {"GET", "/v1/admin/models/{model}/watch", SCOPE_OPERATOR, BODY_NONE, relay_call, "The transitions of a model's versions, as a stream of events.", &WATCH_MODELS},
    {"POST", "/v1/admin/models/{model}/approve", SCOPE_APPROVER, BODY_JSON, relay_call, "Approve a version that passed its gates.", &APPROVE},
    {"POST", "/v1/admin/models/{model}/reject", SCOPE_APPROVER, BODY_JSON, relay_call, "Reject a version for good.", &REJECT},
    {"POST", "/v1/admin/models/{model}/canary", SCOPE_APPROVER, BODY_JSON, relay_call, "Give a version a share of the requests, or end it.", &CANARY},
    {"POST", "/v1/admin/models/{model}/promote", SCOPE_APPROVER, BODY_JSON, relay_call, "Make a version the one that production means.", &PROMOTE},
    {"POST", "/v1/admin/models/{model}/rollback", SCOPE_APPROVER, BODY_JSON, relay_call, "Back to the production version before.", &ROLLBACK},
    {"POST", "/v1/admin/models/{model}/retire", SCOPE_APPROVER, BODY_JSON, relay_call, "Retire a version.", &RETIRE},
    {"POST", "/v1/admin/models/{model}/evaluate", SCOPE_OPERATOR, BODY_JSON_OR_EMPTY, relay_call, "Measure a version for the gates.", &EVALUATE},
    {"GET", "/v1/admin/models/{model}/evaluation-record", SCOPE_OPERATOR, BODY_NONE, relay_call, "An evaluation with a piece of its record, from which the verdict can be computed again: ?id=&offset=.", &EVALUATION_RECORD},
    {"GET", "/v1/admin/models/{model}/files", SCOPE_OPERATOR, BODY_NONE, relay_call, "A piece of a file of a version's directory, or of the list of its files where no path is given: ?path=&offset=.", &MODEL_FILE},
    {"POST", "/v1/admin/models/{model}/improve", SCOPE_OPERATOR, BODY_JSON_OR_EMPTY, relay_call, "Fine-tune on the judgements so far.", &IMPROVE},
    {"POST", "/v1/admin/keys", SCOPE_OPERATOR, BODY_JSON_OR_EMPTY, relay_call, "Make a key of the API: it is shown in this answer and never again.", &CREATE_KEY},
    {"GET", "/v1/admin/keys", SCOPE_OPERATOR, BODY_NONE, relay_call, "The keys of the API, those that were revoked among them.", &LIST_KEYS},
    {"DELETE", "/v1/admin/keys/{id}", SCOPE_OPERATOR, BODY_NONE, relay_call, "Revoke a key, for good and at once.", &REVOKE_KEY},
    {"POST", "/v1/admin/subjects/erase", SCOPE_OPERATOR, BODY_JSON, relay_call, "Erase the key of a subject, for good: nothing that was sealed with it can be read again.", &ERASE_SUBJECT},
    {"GET", "/v1/audit", SCOPE_OPERATOR, BODY_NONE, relay_call, "The audit log, in order.", &LIST_AUDIT},
    {"GET", "/v1/audit/head", SCOPE_OPERATOR, BODY_NONE, relay_call, "The signed head of the audit tree.", &AUDIT_HEAD},
    {"GET", "/v1/audit/proof", SCOPE_OPERATOR, BODY_NONE, relay_call, "A proof of inclusion (?index=) or of consistency (?from_size=).", &AUDIT_PROOF},
    {"GET", "/v1/admin/replicas", SCOPE_OPERATOR, BODY_NONE, operations_replicas, "The replicas of inference, as their heartbeats tell of them.", &REPLICAS},
    {"POST", "/v1/admin/replicas/{replica}/drain", SCOPE_OPERATOR, BODY_JSON_OR_EMPTY, operations_drain, "Take a replica out: it finishes its requests and ends. Of a platform with a supervisor.", &DRAIN},
    {"POST", "/v1/admin/scale", SCOPE_OPERATOR, BODY_JSON, operations_scale, "Run so many replicas: {\"service\": \"inference\", \"replicas\": 3}. Of a platform with a supervisor.", &SCALE},
    {"GET", "/v1/admin/status", SCOPE_OPERATOR, BODY_NONE, status_get, "Services, replicas, models, jobs and lag, at a glance.", NULL},
    {"GET", "/openapi.json", SCOPE_ANY, BODY_NONE, openapi_get, "The description of all of this, as OpenAPI 3.1.", NULL},
    {"GET", "/", SCOPE_ANY, BODY_NONE, console_get, "The console.", NULL},
    {"GET", "/console/{file}", SCOPE_ANY, BODY_NONE, console_get, "A file of the console.", NULL},
};
const size_t ROUTES_COUNT = sizeof ROUTES / sizeof *ROUTES;
