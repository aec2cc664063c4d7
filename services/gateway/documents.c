/* POST /v1/documents: the raw body or the file of a form is one document. */
#include "genloop/v1/services.pb-c.h"
#include "routes.h"
#include "upload.h"
#include "wire/protojson.h"

enum { ANSWER_MAX = 64 * 1024 };

static void answer(struct exchange *x, struct span packed, int r, const struct error *why) {
    struct error err = *why;
    struct buf body;
    struct json_out w;
    buf_init(&body, ANSWER_MAX);
    json_begin(&w, &body);
    if (r == 0 && protojson_write_packed(&w, &genloop__v1__upload_reply__descriptor, packed, true, &err) < 0) r = error_set(&err, E_UNKNOWN, "ingest answered with what is no UploadReply");
    if (r < 0) exchange_error(x, &err);
    else exchange_json(x, 200, &body);
    buf_fini(&body);
}

void document_upload(struct exchange *x, const struct json *body) {
    static const struct upload_door door = {
        .method = "Ingest/Upload",
        .what = "document",
        .fields = 1u << UPLOAD_DATASET | 1u << UPLOAD_SOURCE | 1u << UPLOAD_MEDIA_TYPE | 1u << UPLOAD_SUBJECT,
        .required = UPLOAD_DATASET,
        .remedy = "POST /v1/documents?dataset=NAME&source=FILE, or a part of that name in the form",
        .answer = answer,
    };
    (void)body;
    upload_begin(x, &door);
}
