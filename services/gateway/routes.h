/* The table of what the gateway answers. One row per method and path; adding a door is adding a row and its handler. */
#ifndef GATEWAY_ROUTES_H
#define GATEWAY_ROUTES_H

#include "router.h"

extern const struct route ROUTES[];
extern const size_t ROUTES_COUNT;

/* The handlers, by file. */
void chat_create(struct exchange *x, const struct json *body);       /* generate.c */
void completion_create(struct exchange *x, const struct json *body);
void responses_create(struct exchange *x, const struct json *body);  /* responses.c */
void responses_get(struct exchange *x, const struct json *body);
void responses_delete(struct exchange *x, const struct json *body);
void responses_items(struct exchange *x, const struct json *body);
void tokenize_create(struct exchange *x, const struct json *body);   /* tokenize.c */
void detokenize_create(struct exchange *x, const struct json *body);
void embeddings_create(struct exchange *x, const struct json *body); /* encode.c */
void rerank_create(struct exchange *x, const struct json *body);
void score_create(struct exchange *x, const struct json *body);
void classify_create(struct exchange *x, const struct json *body);
void moderations_create(struct exchange *x, const struct json *body);
void models_list(struct exchange *x, const struct json *body);       /* models.c */
void models_get(struct exchange *x, const struct json *body);
void feedback_submit(struct exchange *x, const struct json *body);   /* feedback.c */
void document_upload(struct exchange *x, const struct json *body);   /* documents.c */
void files_upload(struct exchange *x, const struct json *body);      /* files.c */
void files_list(struct exchange *x, const struct json *body);
void files_get(struct exchange *x, const struct json *body);
void files_delete(struct exchange *x, const struct json *body);
void files_content(struct exchange *x, const struct json *body);
void fine_tuning_create(struct exchange *x, const struct json *body); /* fine_tuning.c */
void fine_tuning_list(struct exchange *x, const struct json *body);
void fine_tuning_get(struct exchange *x, const struct json *body);
void fine_tuning_cancel(struct exchange *x, const struct json *body);
void fine_tuning_pause(struct exchange *x, const struct json *body);
void fine_tuning_resume(struct exchange *x, const struct json *body);
void fine_tuning_events(struct exchange *x, const struct json *body);
void fine_tuning_checkpoints(struct exchange *x, const struct json *body);
void batches_create(struct exchange *x, const struct json *body);    /* batches.c */
void batches_list(struct exchange *x, const struct json *body);
void batches_get(struct exchange *x, const struct json *body);
void batches_cancel(struct exchange *x, const struct json *body);
void openapi_get(struct exchange *x, const struct json *body);        /* openapi_get.c */
void status_get(struct exchange *x, const struct json *body);        /* status.c */
void operations_replicas(struct exchange *x, const struct json *body); /* operations.c */
void operations_scale(struct exchange *x, const struct json *body);
void operations_drain(struct exchange *x, const struct json *body);
void unbuilt_call(struct exchange *x, const struct json *body);      /* unbuilt.c: what the row's relay says, of doors to come */
void unbuilt_form(struct exchange *x, const struct json *body);
void console_get(struct exchange *x, const struct json *body);       /* console.c */
void relay_call(struct exchange *x, const struct json *body);        /* relay.c: what the row's relay says */

#endif
