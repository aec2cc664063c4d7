/*
 * Metrics of a process in Prometheus' text format. A metric is registered once, at start, and lives for ever; counting is one
 * relaxed atomic add. Labels: at most one set per series, given ready-made ("route=\"/v1/models\",code=\"200\""). Thread-safe.
 */
#ifndef GENLOOP_BASE_METRICS_H
#define GENLOOP_BASE_METRICS_H

#include <stdint.h>

#include "base/buf.h"

struct metric; /* a series */
enum { METRIC_SERIES_MAX = 4096 }; /* per process: a label that grows with input ends here, and the overflow series "other" counts it */

/* labels: "" or `a="b",c="d"`, copied. The same name and labels give the same series again; never NULL. */
struct metric *metric_counter(const char *name, const char *labels, const char *help);
struct metric *metric_gauge(const char *name, const char *labels, const char *help);
/* bounds: ascending upper bounds, copied, n ≤ 24; +Inf is added. */
struct metric *metric_histogram(const char *name, const char *labels, const char *help, const double *bounds, int n);
void metric_add(struct metric *m, double v); /* counter (v ≥ 0) or gauge */
void metric_set(struct metric *m, double v); /* gauge */
void metric_observe(struct metric *m, double v);
double metric_value(const struct metric *m); /* count of a histogram */
/* All series; also process_resident_memory_bytes, process_cpu_seconds_total, process_start_time_seconds. */
int metrics_render(struct buf *out);
/* Bounds for latencies in seconds: 1 ms to 60 s. */
extern const double METRIC_SECONDS_BOUNDS[];
extern const int METRIC_SECONDS_BOUNDS_COUNT;

#endif
