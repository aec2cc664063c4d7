/* The scripts of the Redis backend. Each runs whole or not at all, also in the append-only file (its effects lie there between MULTI and EXEC). */
#include "eventlog/redis_internal.h"

#define LUA_NOW "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

/* drain(stream, now, lag, most): removes at most so many of what was replaced longer than lag ago. */
#define LUA_DRAIN \
    "local function drain(s, now, lag, most)\n" \
    "  local latest, old, gone = 'genloop:log:latest:' .. s, 'genloop:log:old:' .. s, 0\n" \
    "  for n = 1, most do\n" \
    "    local head = redis.call('LINDEX', old, 0)\n" \
    "    if not head then break end\n" \
    "    local at, id, key = string.match(head, '^(%d+) (%S+) (.*)$')\n" \
    "    if tonumber(at) > now - lag then break end\n" \
    "    redis.call('LPOP', old)\n" \
    "    if key == '' then gone = gone + redis.call('XDEL', s, id)\n" \
    "    elseif redis.call('HGET', latest, key) == id then\n" \
    "      redis.call('HDEL', latest, key)\n" \
    "      gone = gone + redis.call('XDEL', s, id)\n" \
    "    end\n" \
    "  end\n" \
    "  return gone\n" \
    "end\n"

/* Up to 4 drained per event, at most 2 of which it puts there: the list shrinks to what the lag still holds. */
const char script_publish[] =
    LUA_DRAIN
    "local last = redis.call('GET', KEYS[1])\n"
    "if last and tonumber(last) >= tonumber(ARGV[1]) then return 0 end\n"
    LUA_NOW
    "for i = 3, #ARGV, 12 do\n"
    "  local s, kind, keep, key, value = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4]\n"
    "  local words = {'XADD', s}\n"
    "  if kind == 'e' then words[3] = 'MINID' words[4] = '~' words[5] = string.format('%.0f', now - keep) end\n"
    "  local n = #words\n"
    "  words[n + 1] = '*'\n"
    "  words[n + 2] = 'key' words[n + 3] = key\n"
    "  words[n + 4] = 'value' words[n + 5] = value\n"
    "  words[n + 6] = 'ce_id' words[n + 7] = ARGV[i + 5]\n"
    "  words[n + 8] = 'ce_source' words[n + 9] = ARGV[i + 6]\n"
    "  words[n + 10] = 'ce_type' words[n + 11] = ARGV[i + 7]\n"
    "  words[n + 12] = 'ce_time' words[n + 13] = ARGV[i + 8]\n"
    "  words[n + 14] = 'ce_subject' words[n + 15] = ARGV[i + 9]\n"
    "  words[n + 16] = 'content-type' words[n + 17] = ARGV[i + 10]\n"
    "  words[n + 18] = 'traceparent' words[n + 19] = ARGV[i + 11]\n"
    "  local id = redis.call(unpack(words))\n"
    "  if kind == 'c' then\n"
    "    local latest, old, at = 'genloop:log:latest:' .. s, 'genloop:log:old:' .. s, string.format('%.0f', now)\n"
    "    local before = redis.call('HGET', latest, key)\n"
    "    redis.call('HSET', latest, key, id)\n"
    "    if before then redis.call('RPUSH', old, at .. ' ' .. before .. ' ') end\n"
    "    if value == '' then redis.call('RPUSH', old, at .. ' ' .. id .. ' ' .. key) end\n"
    "    drain(s, now, keep, 4)\n"
    "  end\n"
    "end\n"
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
    "return 1\n";

const char script_compact[] = LUA_DRAIN LUA_NOW "return drain(KEYS[1], now, tonumber(ARGV[1]), 1000)\n";

const char script_ends[] =
    "local ends = {}\n"
    "for i, s in ipairs(KEYS) do\n"
    "  local last = redis.call('XREVRANGE', s, '+', '-', 'COUNT', 1)\n"
    "  ends[i] = last[1] and last[1][1] or '0-0'\n"
    "end\n"
    "return ends\n";

/* Shares differ by one at most; who has the odd ones follows from the names, turned by the topic's so that not one member gets them all. */
const char script_beat[] =
    LUA_NOW
    "local g, member, session = KEYS[1], ARGV[1], ARGV[2]\n"
    "local known = redis.call('HGET', g .. ':sessions', member)\n"
    "if known and known ~= session and ARGV[4] ~= '1' then return {-1} end\n"
    "if known ~= session then redis.call('HSET', g .. ':sessions', member, session) end\n"
    "local me, owned, over, waits = member .. '\\n' .. session, {}, {}, 0\n"
    "for i = 5, #ARGV, 2 do\n"
    "  local topic, partitions = ARGV[i], tonumber(ARGV[i + 1])\n"
    "  local members = g .. ':members:' .. topic\n"
    "  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', members, '-inf', string.format('(%.0f', now))) do\n"
    "    if dead ~= member then redis.call('ZREM', members, dead) redis.call('HDEL', g .. ':sessions', dead) end\n"
    "  end\n"
    "  redis.call('ZADD', members, string.format('%.0f', now + tonumber(ARGV[3])), member)\n"
    "  local names = redis.call('ZRANGE', members, 0, -1)\n"
    "  table.sort(names)\n"
    "  local rank = 0\n"
    "  for r, name in ipairs(names) do if name == member then rank = (r + #topic) % #names end end\n"
    "  local share = math.floor(partitions / #names)\n"
    "  if rank < partitions % #names then share = share + 1 end\n"
    "  local mine, free = {}, {}\n"
    "  for p = 0, partitions - 1 do\n"
    "    local s = topic .. ':' .. p\n"
    "    local owner = redis.call('HGET', g .. ':owners', s)\n"
    "    local name = owner and string.match(owner, '^(.-)\\n')\n"
    "    if owner == me then mine[#mine + 1] = s\n"
    "    elseif not name or name == member or not redis.call('ZSCORE', members, name) then free[#free + 1] = s end\n"
    "  end\n"
    "  for _, s in ipairs(free) do\n"
    "    if #mine >= share then break end\n"
    "    redis.call('HSET', g .. ':owners', s, me)\n"
    "    mine[#mine + 1] = s\n"
    "  end\n"
    "  for _, s in ipairs(mine) do owned[#owned + 1] = s end\n"
    "  over[#over + 1] = math.max(0, #mine - share)\n"
    "  if #mine < share then waits = 1 end\n"
    "end\n"
    "return {0, owned, over, waits}\n";

/* A group that is new begins at the beginning; entries-read is what was trimmed before it came, so that the server's lag is exact. */
const char script_assign[] =
    "local g, s = KEYS[1], KEYS[2]\n"
    "if redis.call('HGET', g .. ':owners', s) ~= ARGV[1] then return {} end\n"
    "local committed\n"
    "local function find()\n"
    "  if redis.call('EXISTS', s) == 0 then return end\n"
    "  for _, group in ipairs(redis.call('XINFO', 'GROUPS', s)) do\n"
    "    local about = {}\n"
    "    for i = 1, #group, 2 do about[group[i]] = group[i + 1] end\n"
    "    if about.name == ARGV[2] then committed = about['last-delivered-id'] end\n"
    "  end\n"
    "end\n"
    "find()\n"
    "if not committed then\n"
    "  local trimmed = 0\n"
    "  if redis.call('EXISTS', s) == 1 then\n"
    "    local info = redis.call('XINFO', 'STREAM', s)\n"
    "    local about = {}\n"
    "    for i = 1, #info, 2 do about[info[i]] = info[i + 1] end\n"
    "    trimmed = about['entries-added'] - about.length\n"
    "  end\n"
    "  redis.call('XGROUP', 'CREATE', s, ARGV[2], '0-0', 'MKSTREAM', 'ENTRIESREAD', trimmed)\n"
    "  committed = '0-0'\n"
    "end\n"
    "local id, n = string.match(redis.call('HGET', g .. ':tries', s) or '', '^(%S+) (%d+)$')\n"
    "n = id == committed and tonumber(n) + 1 or 1\n"
    "redis.call('HSET', g .. ':tries', s, committed .. ' ' .. n)\n"
    "return {committed, n}\n";

#define LUA_FORGET_TRY \
    "local function forget_try(g, s)\n" \
    "  local id, n = string.match(redis.call('HGET', g .. ':tries', s) or '', '^(%S+) (%d+)$')\n" \
    "  if id and tonumber(n) > 0 then redis.call('HSET', g .. ':tries', s, id .. ' ' .. (tonumber(n) - 1)) end\n" \
    "end\n"

const char script_release[] =
    LUA_FORGET_TRY
    "local g = KEYS[1]\n"
    "for i = 2, #ARGV, 2 do\n"
    "  if redis.call('HGET', g .. ':owners', ARGV[i]) == ARGV[1] then\n"
    "    redis.call('HDEL', g .. ':owners', ARGV[i])\n"
    "    if ARGV[i + 1] ~= '1' then forget_try(g, ARGV[i]) end\n"
    "  end\n"
    "end\n"
    "return 1\n";

const char script_commit[] =
    "local g, s = KEYS[1], KEYS[2]\n"
    "if redis.call('HGET', g .. ':owners', s) ~= ARGV[1] then return 0 end\n"
    "for _, group in ipairs(redis.call('XINFO', 'GROUPS', s)) do\n"
    "  local about = {}\n"
    "  for i = 1, #group, 2 do about[group[i]] = group[i + 1] end\n"
    "  if about.name == ARGV[2] then\n"
    "    local m1, n1 = string.match(about['last-delivered-id'], '^(%d+)-(%d+)$')\n"
    "    local m2, n2 = string.match(ARGV[3], '^(%d+)-(%d+)$')\n"
    "    m1 = tonumber(m1) n1 = tonumber(n1) m2 = tonumber(m2) n2 = tonumber(n2)\n"
    "    if m2 < m1 or (m2 == m1 and n2 <= n1) then return 1 end\n"
    "    local read = about['entries-read']\n"
    "    if read then redis.call('XGROUP', 'SETID', s, ARGV[2], ARGV[3], 'ENTRIESREAD', read + tonumber(ARGV[4]))\n"
    "    else redis.call('XGROUP', 'SETID', s, ARGV[2], ARGV[3]) end\n"
    "    return 1\n"
    "  end\n"
    "end\n"
    "return 0\n";

const char script_leave[] =
    LUA_FORGET_TRY
    "local g, member, session = KEYS[1], ARGV[1], ARGV[2]\n"
    "if redis.call('HGET', g .. ':sessions', member) ~= session then return 0 end\n"
    "redis.call('HDEL', g .. ':sessions', member)\n"
    "for i = 3, #ARGV do redis.call('ZREM', g .. ':members:' .. ARGV[i], member) end\n"
    "return 1\n";

/* The server knows the lag exactly unless entries were deleted inside the range (compaction); then the few that are left are counted. What was trimmed
 * unread is no lag, hence the length as its bound. */
const char script_lag[] =
    "local sum = 0\n"
    "for _, s in ipairs(KEYS) do\n"
    "  if redis.call('EXISTS', s) == 1 then\n"
    "    local length, lag, last = redis.call('XLEN', s), nil, nil\n"
    "    for _, group in ipairs(redis.call('XINFO', 'GROUPS', s)) do\n"
    "      local about = {}\n"
    "      for i = 1, #group, 2 do about[group[i]] = group[i + 1] end\n"
    "      if about.name == ARGV[1] then lag, last = about.lag, about['last-delivered-id'] end\n"
    "    end\n"
    "    if not last then lag = length\n"
    "    elseif not lag then lag = #redis.call('XRANGE', s, '(' .. last, '+', 'COUNT', 1000)\n"
    "    elseif lag > 0 and #redis.call('XRANGE', s, '(' .. last, '+', 'COUNT', 1) == 0 then lag = 0 end\n"
    "    sum = sum + math.min(lag, length)\n"
    "  end\n"
    "end\n"
    "return sum\n";

const char script_lease[] =
    LUA_NOW
    "local holder, session, epoch, til = unpack(redis.call('HMGET', KEYS[1], 'holder', 'session', 'epoch', 'until'))\n"
    "epoch = tonumber(epoch or '0') til = tonumber(til or '0')\n"
    "local held = til > now\n"
    "if ARGV[5] == '1' then\n"
    "  if session == ARGV[2] then redis.call('HSET', KEYS[1], 'until', '0') end\n"
    "  return 0\n"
    "end\n"
    "if held and session ~= ARGV[2] and not (ARGV[4] == '1' and holder == ARGV[1]) then return 0 end\n"
    "if not held or session ~= ARGV[2] then epoch = epoch + 1 end\n"
    "redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'session', ARGV[2], 'epoch', string.format('%.0f', epoch),\n"
    "  'until', string.format('%.0f', now + tonumber(ARGV[3])))\n"
    "return epoch\n";

int redis_script(struct redis *r, const char *script, const struct span *keys, int n_keys, const struct span *args, int n_args,
                 struct redis_reply **reply, struct error *err) {
    enum { WORDS_MAX = 3 + PARTS_MAX + 2 * PARTS_MAX + 8 };
    struct span words[WORDS_MAX];
    ASSERT(n_keys >= 0 && n_args >= 0 && 3 + n_keys + n_args <= WORDS_MAX);
    char count[16];
    snprintf(count, sizeof count, "%d", n_keys);
    int n = 0;
    words[n++] = SPAN("EVAL");
    words[n++] = span_str(script);
    words[n++] = span_str(count);
    for (int i = 0; i < n_keys; i++) words[n++] = keys[i];
    for (int i = 0; i < n_args; i++) words[n++] = args[i];
    return redis_command(r, n, words, reply, err);
}
