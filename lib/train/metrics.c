#include "train/metrics.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/file.h"
#include "base/json.h"

enum { PATH_SIZE = 4096, LINE_MAX_BYTES = 1024, METRICS_FILE_MAX = 1 << 30 };

struct metrics {
    FILE *lines, *events;
};

/* ---- TFRecord: length, masked CRC of the length, data, masked CRC of the data (tensorflow/core/lib/io/record_writer.h) ---- */

static uint32_t masked(const void *data, size_t len) {
    uint32_t crc = crc32c(data, len);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}
static int put_u32(struct buf *b, uint32_t v) {
    const uint8_t bytes[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    return buf_append(b, bytes, 4);
}
static int put_u64(struct buf *b, uint64_t v) {
    put_u32(b, (uint32_t)v);
    return put_u32(b, (uint32_t)(v >> 32));
}
static int put_record(struct buf *out, struct span data) {
    size_t at = out->len;
    put_u64(out, data.len);
    if (out->failed) return out->failed;
    put_u32(out, masked(out->data + out->start + at, 8));
    buf_append_span(out, data);
    return put_u32(out, masked(data.data, data.len));
}

/* ---- Event (tensorflow/core/util/event.proto): 1 wall_time double, 2 step int64, 3 file_version string, 5 summary { 1 value { 1 tag, 2 simple_value } } ---- */

static void put_varint(struct buf *b, uint64_t v) {
    for (; v >= 0x80; v >>= 7) buf_append_char(b, (char)(0x80 | (v & 0x7f)));
    buf_append_char(b, (char)v);
}
static void put_bytes(struct buf *b, unsigned field, struct span s) {
    put_varint(b, field << 3 | 2);
    put_varint(b, s.len);
    buf_append_span(b, s);
}
static void put_head(struct buf *b, uint64_t step) {
    double wall = (double)clock_wall_ms() / 1e3;
    uint64_t bits;
    memcpy(&bits, &wall, sizeof bits);
    put_varint(b, 1 << 3 | 1);
    put_u64(b, bits);
    put_varint(b, 2 << 3);
    put_varint(b, step);
}
static void put_scalar(struct buf *summary, const char *tag, double value) {
    if (isnan(value)) return;
    struct buf v;
    buf_init(&v, 128);
    put_bytes(&v, 1, span_str(tag));
    put_varint(&v, 2 << 3 | 5);
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    put_u32(&v, bits);
    put_bytes(summary, 1, buf_span(&v));
    buf_fini(&v);
}

static int write_record(FILE *f, struct buf *event, struct error *err) {
    struct buf record;
    buf_init(&record, 8192);
    int r = event->failed || put_record(&record, buf_span(event)) ? error_set(err, E_NOMEM, "no memory for the TensorBoard file") : 0;
    if (!r && (fwrite(buf_span(&record).data, 1, record.len, f) != record.len || fflush(f))) r = error_errno(err, errno, "the TensorBoard file");
    buf_fini(&record);
    return r;
}

/* Only the lines up to this step stay: those after it belong to a run that was cut off and are done again. */
static int truncate_lines(const char *path, uint64_t after_step, struct error *err) {
    struct buf text;
    if (!file_exists(path)) return 0;
    buf_init(&text, METRICS_FILE_MAX);
    int r = file_read(path, &text, err);
    struct span rest = buf_span(&text), line;
    size_t keep = 0;
    while (!r && span_cut(&rest, '\n', &line)) {
        struct json *row = NULL;
        bool whole = line.data + line.len < buf_span(&text).data + text.len && json_parse(line, &row, NULL) == 0;
        bool stays = whole && (uint64_t)json_int(json_get(row, "step"), INT64_MAX) <= after_step;
        json_free(row);
        if (!stays) break;
        keep = (size_t)(line.data - buf_span(&text).data) + line.len + 1;
    }
    if (!r && keep < text.len && truncate(path, (off_t)keep)) r = error_errno(err, errno, "%s", path);
    buf_fini(&text);
    return r;
}

int metrics_open(struct metrics **out, const char *dir, uint64_t after_step, struct error *err) {
    char path[PATH_SIZE];
    struct metrics *m = mem_zalloc(sizeof *m);
    if (!m) return error_set(err, E_NOMEM, "no memory");
    int r = dir_make(dir, err);
    if (r) goto fail;
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    if ((r = truncate_lines(path, after_step, err))) goto fail;
    if (!(m->lines = fopen(path, "ae"))) {
        r = error_errno(err, errno, "%s", path);
        goto fail;
    }
    /* TensorBoard reads the files of a folder in order of their names; a run that goes on begins another one. */
    snprintf(path, sizeof path, "%s/events.out.tfevents.%010lld.genloop.%llu", dir, (long long)(clock_wall_ms() / 1000), (unsigned long long)after_step);
    if (!(m->events = fopen(path, "ae"))) {
        r = error_errno(err, errno, "%s", path);
        goto fail;
    }
    struct buf event;
    buf_init(&event, 256);
    put_head(&event, after_step);
    put_bytes(&event, 3, SPAN("brain.Event:2"));
    r = write_record(m->events, &event, err);
    buf_fini(&event);
    if (r) goto fail;
    *out = m;
    return 0;
fail:
    metrics_close(m);
    return r;
}

int metrics_step(struct metrics *m, const struct train_step *s, struct error *err) {
    struct buf line, summary, event;
    struct json_out w;
    buf_init(&line, LINE_MAX_BYTES);
    buf_init(&summary, 2048);
    buf_init(&event, 4096);
    json_begin(&w, &line);
    json_object(&w);
    json_num(&w, "step", (int64_t)s->step);
    json_flt(&w, "loss", s->loss);
    json_flt(&w, "grad_norm", s->grad_norm);
    json_flt(&w, "lr", s->lr);
    json_num(&w, "tokens", (int64_t)s->tokens_total);
    json_flt(&w, "seconds", s->seconds);
    if (!isnan(s->dpo_accuracy)) json_flt(&w, "accuracy", s->dpo_accuracy);
    if (!isnan(s->evaluate_loss)) json_flt(&w, "evaluate_loss", s->evaluate_loss);
    json_object_end(&w);
    buf_append_char(&line, '\n');
    int r = line.failed ? error_set(err, line.failed, "no memory for metrics.jsonl") : 0;
    if (!r && (fwrite(buf_span(&line).data, 1, line.len, m->lines) != line.len || fflush(m->lines))) r = error_errno(err, errno, "metrics.jsonl");

    put_scalar(&summary, "train/loss", s->loss);
    put_scalar(&summary, "train/grad_norm", s->grad_norm);
    put_scalar(&summary, "train/learning_rate", s->lr);
    put_scalar(&summary, "train/tokens_per_second", s->seconds > 0 ? (double)s->tokens / s->seconds : (double)NAN);
    put_scalar(&summary, "train/accuracy", s->dpo_accuracy);
    put_scalar(&summary, "eval/loss", s->evaluate_loss);
    put_head(&event, s->step);
    put_bytes(&event, 5, buf_span(&summary));
    if (!r && summary.failed) r = error_set(err, summary.failed, "no memory for the TensorBoard file");
    if (!r) r = write_record(m->events, &event, err);
    buf_fini(&line);
    buf_fini(&summary);
    buf_fini(&event);
    return r;
}

void metrics_close(struct metrics *m) {
    if (!m) return;
    if (m->lines) fclose(m->lines);
    if (m->events) fclose(m->events);
    mem_free(m);
}
