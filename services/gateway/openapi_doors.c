/* What the rows of ROUTES do not say of themselves. A new door gets a row here. */
#include "openapi.h"

const struct openapi_door OPENAPI_DOORS[] = {
    {"GET", "/v1/models", NULL, NULL, "ModelList", false},
    {"GET", "/v1/models/{model}", NULL, NULL, "Model", false},
    {"POST", "/v1/chat/completions", NULL, "ChatCompletionRequest", "ChatCompletion", true},
    {"POST", "/v1/completions", NULL, "CompletionRequest", "Completion", true},
    {"POST", "/v1/responses", NULL, "ResponseRequest", "Response", true},
    {"GET", "/v1/responses/{response_id}", NULL, NULL, "Response", false},
    {"DELETE", "/v1/responses/{response_id}", NULL, NULL, "ResponseDeleted", false},
    {"GET", "/v1/responses/{response_id}/input_items", "after:string limit:integer order:asc|desc", NULL, "ResponseItemList", false},
    {"POST", "/v1/tokenize", NULL, "TokenizationRequest", "Tokenization", false},
    {"POST", "/v1/detokenize", NULL, "DetokenizationRequest", "Detokenization", false},
    {"POST", "/v1/embeddings", NULL, "EmbeddingRequest", "EmbeddingList", false},
    {"POST", "/v1/rerank", NULL, "RerankRequest", "Ranking", false},
    {"POST", "/v1/score", NULL, "ScoreRequest", "ScoreList", false},
    {"POST", "/v1/classify", NULL, "ClassifyRequest", "ClassList", false},
    {"POST", "/v1/moderations", NULL, "ModerationRequest", "Moderation", false},
    {"POST", "/v1/feedback", NULL, "Judgement", "SubmitFeedbackReply", false},
    {"POST", "/v1/files", NULL, "FileUpload", "FileObject", false},
    {"GET", "/v1/files", "purpose:fine-tune|batch|model|batch_output|fine-tune-results after:string limit:integer order:asc|desc", NULL, "FileList", false},
    {"GET", "/v1/files/{file_id}", NULL, NULL, "FileObject", false},
    {"DELETE", "/v1/files/{file_id}", NULL, NULL, "FileDeleted", false},
    {"GET", "/v1/files/{file_id}/content", NULL, NULL, "application/octet-stream", false},
    {"POST", "/v1/fine_tuning/jobs", NULL, "FineTuningRequest", "FineTuningJob", false},
    {"GET", "/v1/fine_tuning/jobs", "after:string limit:integer metadata[KEY]:string", NULL, "FineTuningJobList", false},
    {"GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}", NULL, NULL, "FineTuningJob", false},
    {"GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/events", "after:string limit:integer", NULL, "FineTuningEventList", false},
    {"GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints", "after:string limit:integer", NULL, "FineTuningCheckpointList", false},
    {"POST", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel", NULL, NULL, "FineTuningJob", false},
    {"POST", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/pause", NULL, NULL, "FineTuningJob", false},
    {"POST", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/resume", NULL, NULL, "FineTuningJob", false},
    {"POST", "/v1/batches", NULL, "BatchRequest", "Batch", false},
    {"GET", "/v1/batches", "after:string limit:integer", NULL, "BatchList", false},
    {"GET", "/v1/batches/{batch_id}", NULL, NULL, "Batch", false},
    {"POST", "/v1/batches/{batch_id}/cancel", NULL, NULL, "Batch", false},
    {"POST", "/v1/documents", "dataset:string source:string media_type:string subject:string", "DocumentUpload", "UploadReply", false},
    {"GET", "/v1/admin/status", NULL, NULL, "PlatformStatus", false},
    {"GET", "/openapi.json", NULL, NULL, "OpenApi", false},
    {"GET", "/", NULL, NULL, "text/html", false},
};
const size_t OPENAPI_DOORS_COUNT = sizeof OPENAPI_DOORS / sizeof *OPENAPI_DOORS;

#define GENERATION                                                                                                                                                            \
    "model:string! max_tokens:integer temperature:number top_p:number top_k:integer min_p:number frequency_penalty:number presence_penalty:number repetition_penalty:number " \
    "seed:integer n:integer stop:any stop_token_ids:[integer] ignore_eos:boolean logit_bias:object typical_p:number top_n_sigma:number dry_multiplier:number dry_base:number " \
    "dry_allowed_length:integer dry_sequence_breakers:[string] dry_answer_only:boolean xtc_probability:number xtc_threshold:number mirostat:integer mirostat_tau:number mirostat_eta:number " \
    "response_format:@ResponseFormat guided_json:object guided_regex:string guided_grammar:string guided_choice:[string] structured_outputs:@StructuredOutputs stream:boolean stream_options:@StreamOptions user:string"

const struct openapi_schema OPENAPI_SCHEMAS[] = {
    {"Error", "error:@ErrorDetail!"},
    {"ErrorDetail", "message:string! type:string! param:string!? code:string!?"},
    {"Model", "id:string! object:=model! created:integer! owned_by:string! version:string state:production|canary context_length:integer"},
    {"ModelList", "object:=list! data:[@Model]!"},
    {"StreamOptions", "include_usage:boolean"},
    {"CalledFunction", "name:string! arguments:string!"},
    {"ToolCall", "id:string! type:=function! function:@CalledFunction!"},
    {"Message", "role:system|developer|user|assistant|tool! content:any name:string tool_calls:[@ToolCall] tool_call_id:string reasoning_content:string"},
    {"ToolFunction", "name:string! description:string parameters:object strict:boolean"},
    {"FunctionTool", "type:=function! function:@ToolFunction!"},
    {"ChatCompletionRequest", "messages:[@Message]! max_completion_tokens:integer logprobs:boolean top_logprobs:integer tools:[@FunctionTool] tool_choice:any parallel_tool_calls:boolean "
                              "chat_template_kwargs:object " GENERATION},
    {"ResponseFormat", "type:text|json_object|json_schema! json_schema:@NamedSchema"},
    {"NamedSchema", "name:string! description:string schema:object! strict:boolean?"},
    {"StructuredOutputs", "json:object regex:string grammar:string choice:[string] json_object:boolean"},
    {"ChatChoice", "index:integer! message:@Message! finish_reason:string!? logprobs:object?"},
    {"Usage", "prompt_tokens:integer! completion_tokens:integer! total_tokens:integer!"},
    {"ChatCompletion", "id:string! object:=chat.completion! created:integer! model:string! choices:[@ChatChoice]! usage:@Usage"},
    {"CompletionRequest", "prompt:any! echo:boolean best_of:integer logprobs:integer suffix:string " GENERATION},
    {"CompletionChoice", "index:integer! text:string! finish_reason:string!? logprobs:object?"},
    {"Completion", "id:string! object:=text_completion! created:integer! model:string! choices:[@CompletionChoice]! usage:@Usage"},
    {"ResponseFunction", "type:=function! name:string! description:string? parameters:object? strict:boolean?"},
    {"ResponseFormatText", "type:text|json_object|json_schema! name:string description:string schema:object strict:boolean?"},
    {"ResponseText", "format:@ResponseFormatText verbosity:=medium"},
    {"ResponsePart", "type:input_text|output_text|reasoning_text! text:string! annotations:[object] logprobs:[object]"},
    {"ResponseItem", "id:string type:message|reasoning|function_call|function_call_output role:user|assistant|system|developer status:string content:any summary:[object] call_id:string name:string "
                     "arguments:string output:any"},
    {"ResponseRequest", "model:string! input:any! instructions:string? previous_response_id:string? max_output_tokens:integer? max_tool_calls:integer? temperature:number? top_p:number? top_logprobs:integer? "
                        "include:[string] tools:[@ResponseFunction] tool_choice:any parallel_tool_calls:boolean? text:@ResponseText metadata:object? store:boolean? truncation:=disabled stream:boolean? "
                        "user:string? safety_identifier:string? prompt_cache_key:string? service_tier:auto|default chat_template_kwargs:object seed:integer stop:any top_k:integer min_p:number"},
    {"ResponseIncomplete", "reason:string!"},
    {"ResponseError", "code:string! message:string!"},
    {"ResponseInputDetails", "cached_tokens:integer!"},
    {"ResponseOutputDetails", "reasoning_tokens:integer!"},
    {"ResponseUsage", "input_tokens:integer! input_tokens_details:@ResponseInputDetails! output_tokens:integer! output_tokens_details:@ResponseOutputDetails! total_tokens:integer!"},
    {"Response", "id:string! object:=response! created_at:integer! status:in_progress|completed|incomplete|failed! background:boolean! error:@ResponseError? incomplete_details:@ResponseIncomplete? "
                 "model:string! output:[@ResponseItem]! usage:@ResponseUsage? service_tier:string! store:boolean! instructions:string? max_output_tokens:integer? max_tool_calls:integer? metadata:object! "
                 "parallel_tool_calls:boolean! previous_response_id:string? prompt_cache_key:string? reasoning:object! safety_identifier:string? temperature:number? text:@ResponseText! tool_choice:any! "
                 "tools:[@ResponseFunction]! top_logprobs:integer! top_p:number? truncation:string! user:string?"},
    {"ResponseDeleted", "id:string! object:=response! deleted:boolean!"},
    {"ResponseItemList", "object:=list! data:[@ResponseItem]! first_id:string? last_id:string? has_more:boolean!"},
    {"TokenizationRequest", "model:string! prompt:string messages:[@Message] add_special_tokens:boolean add_generation_prompt:boolean return_token_strs:boolean tools:[@FunctionTool] "
                            "chat_template_kwargs:object"},
    {"Tokenization", "count:integer! max_model_len:integer tokens:[integer]! token_strs:[string]?"},
    {"DetokenizationRequest", "model:string! tokens:[integer]!"},
    {"Detokenization", "prompt:string!"},
    {"EncodeUsage", "prompt_tokens:integer! total_tokens:integer!"},
    {"EmbeddingRequest", "model:string! input:any! encoding_format:float|base64 dimensions:integer truncate:boolean user:string"},
    {"Embedding", "object:=embedding! index:integer! embedding:any!"},
    {"EmbeddingList", "object:=list! data:[@Embedding]! model:string! usage:@EncodeUsage!"},
    {"RerankRequest", "model:string! query:string! documents:[any]! top_n:integer return_documents:boolean truncate:boolean user:string"},
    {"RankedDocument", "text:string!"},
    {"Ranked", "index:integer! document:@RankedDocument relevance_score:number!"},
    {"Ranking", "id:string! model:string! results:[@Ranked]! usage:@EncodeUsage!"},
    {"ScoreRequest", "model:string! text_1:any! text_2:any! truncate:boolean user:string"},
    {"Score", "index:integer! object:=score! score:number!"},
    {"ScoreList", "id:string! object:=list! created:integer! model:string! data:[@Score]! usage:@EncodeUsage!"},
    {"ClassifyRequest", "model:string! input:any! truncate:boolean user:string"},
    {"Class", "index:integer! label:string! probs:[number]! num_classes:integer!"},
    {"ClassList", "id:string! object:=list! created:integer! model:string! data:[@Class]! usage:@EncodeUsage!"},
    {"ModerationRequest", "model:string! input:any!"},
    {"ModerationResult", "flagged:boolean! categories:object! category_scores:object!"},
    {"Moderation", "id:string! model:string! results:[@ModerationResult]!"},
    {"Judgement", "id:string request_id:string kind:thumb|rating|preference|correction! value:number prompt:any chosen:string rejected:string text:string subject:string time:string"},
    {"SubmitFeedbackReply", "id:string existed:boolean"},
    {"FileUpload", "file:binary! purpose:fine-tune|batch|model! expires_after[anchor]:=created_at expires_after[seconds]:integer"},
    {"DocumentUpload", "file:binary! dataset:string source:string media_type:string subject:string"},
    {"UploadReply", "document_id:string sha256:string size_bytes:integer existed:boolean"},
    {"FileObject", "id:string! object:=file! bytes:integer! created_at:integer! expires_at:integer? filename:string! purpose:string! status:uploaded|processed|error! status_details:string?"},
    {"FileList", "object:=list! data:[@FileObject]! first_id:string? last_id:string? has_more:boolean!"},
    {"FileDeleted", "id:string! object:=file! deleted:boolean!"},
    {"FineTuningHyperparameters", "n_epochs:any batch_size:any learning_rate_multiplier:any beta:any"},
    {"FineTuningParameters", "hyperparameters:@FineTuningHyperparameters"},
    {"FineTuningMethod", "type:supervised|dpo! supervised:@FineTuningParameters dpo:@FineTuningParameters"},
    {"FineTuningRequest", "model:string! training_file:string! validation_file:string? suffix:string? seed:integer? method:@FineTuningMethod hyperparameters:@FineTuningHyperparameters metadata:object? "
                          "integrations:[object]?"},
    {"FineTuningState", "base_model:string dataset:string step:integer steps:integer model_version:string? model_state:string? served:boolean! note:string!"},
    {"FineTuningJob", "id:string! object:=fine_tuning.job! model:string! created_at:integer! finished_at:integer? fine_tuned_model:string? organization_id:string! result_files:[string]! "
                      "status:validating_files|queued|running|paused|succeeded|failed|cancelled! training_file:string! validation_file:string? hyperparameters:@FineTuningHyperparameters! "
                      "method:@FineTuningMethod trained_tokens:integer? error:object? user_provided_suffix:string? seed:integer! estimated_finish:integer? integrations:[object]? metadata:object? "
                      "genloop:@FineTuningState"},
    {"FineTuningJobList", "object:=list! data:[@FineTuningJob]! has_more:boolean!"},
    {"FineTuningEvent", "id:string! object:=fine_tuning.job.event! created_at:integer! level:info|warn|error! message:string! type:message|metrics data:object?"},
    {"FineTuningEventList", "object:=list! data:[@FineTuningEvent]! has_more:boolean!"},
    {"FineTuningCheckpoint", "id:string! object:=fine_tuning.job.checkpoint! created_at:integer! fine_tuned_model_checkpoint:string! fine_tuning_job_id:string! step_number:integer! metrics:object!"},
    {"FineTuningCheckpointList", "object:=list! data:[@FineTuningCheckpoint]! has_more:boolean!"},
    {"BatchRequest", "input_file_id:string! endpoint:/v1/chat/completions|/v1/completions|/v1/responses|/v1/embeddings! completion_window:=24h! metadata:object? output_expires_after:object?"},
    {"BatchError", "code:string! message:string! param:string? line:integer?"},
    {"BatchErrors", "object:=list! data:[@BatchError]!"},
    {"BatchCounts", "total:integer! completed:integer! failed:integer!"},
    {"Batch", "id:string! object:=batch! endpoint:string! model:string? errors:@BatchErrors input_file_id:string! completion_window:string! "
              "status:validating|failed|in_progress|finalizing|completed|expired|cancelling|cancelled! output_file_id:string? error_file_id:string? created_at:integer! in_progress_at:integer? "
              "expires_at:integer? finalizing_at:integer? completed_at:integer? failed_at:integer? expired_at:integer? cancelling_at:integer? cancelled_at:integer? request_counts:@BatchCounts! metadata:object?"},
    {"BatchList", "object:=list! data:[@Batch]! first_id:string? last_id:string? has_more:boolean!"},
    {"PlatformStatus", "services:any"},
    {"OpenApi", "openapi:string! info:object! paths:object!"},
};
const size_t OPENAPI_SCHEMAS_COUNT = sizeof OPENAPI_SCHEMAS / sizeof *OPENAPI_SCHEMAS;
