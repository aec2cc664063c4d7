#include "wire/chat_json.h"

void chat_json_calls(struct json_out *w, const Genloop__V1__ChatMessage *m) {
    json_key(w, "tool_calls");
    json_array(w);
    for (size_t i = 0; i < m->n_tool_calls; i++) {
        json_object(w);
        json_str(w, "id", m->tool_calls[i]->id);
        json_str(w, "type", "function");
        json_key(w, "function");
        json_object(w);
        json_str(w, "name", m->tool_calls[i]->name);
        json_str(w, "arguments", m->tool_calls[i]->arguments);
        json_object_end(w);
        json_object_end(w);
    }
    json_array_end(w);
}
