/* Pages of lists, as OpenAI's are asked for and answered: after, limit and order in the query; object, data, first_id, last_id and has_more around what is listed. Pure. */
#ifndef GATEWAY_PAGES_H
#define GATEWAY_PAGES_H

#include "base/json.h"
#include "router.h"

struct page {
    char after[QUERY_VALUE_MAX]; /* an id; "": from the beginning */
    uint32_t limit;
    bool ascending; /* order=asc; newest first otherwise */
};
/* limit: where the query says none; most: what it may say. Which names the query may have at all is the caller's to check. E_INVALID names the parameter. */
int page_read(struct span query, uint32_t limit, uint32_t most, struct page *page, struct error *err);

/* The beginning of the list, to be gone on with by its items; w writes into the body. */
void page_begin(struct json_out *w, struct buf *body);
/* first, last: ids of the page's ends, empty where it is. */
void page_end(struct json_out *w, struct span first, struct span last, bool has_more);
/* A list whose items have no ids that one could go on from. */
void page_end_plain(struct json_out *w, bool has_more);

#endif
