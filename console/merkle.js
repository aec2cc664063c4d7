// The audit tree, checked in this browser with its own SHA-256 and Ed25519: nothing that the gateway claims is taken for granted but its public key at the first look (see audit.js).
//
//   leaf  SHA-256(0x00 || record)      node  SHA-256(0x01 || left || right)                                   (RFC 6962, 2.1)
//
// The record is the AuditRecord packed as protobuf with leaf_hash, root_hash and signature left out and details sorted by key; a head is signed over
// "genloop.v1.AuditHead" NUL size root time, numbers as 64 bits big-endian.

export const can_verify = () => Boolean(globalThis.crypto?.subtle);

export const from_base64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
export const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
export const from_hex = (text) => Uint8Array.from(text.match(/../g) ?? [], (two) => parseInt(two, 16));
export const same = (a, b) => a.length === b.length && a.every((v, i) => v === b[i]);

function join(...parts) {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

export const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", join(...parts)));
const LEAF = Uint8Array.of(0), NODE = Uint8Array.of(1), text_bytes = new TextEncoder();
const node_hash = (left, right) => sha256(NODE, left, right);

// ---- the record, packed as protobuf (lib/wire and protobuf-c do the same: fields by number, defaults left out) ----

function varint(n) {
  const out = [];
  let v = BigInt(n);
  for (; v > 127n; v >>= 7n) out.push(Number(v & 127n) | 128);
  out.push(Number(v));
  return out;
}
function put_number(out, field, n) {
  if (n) out.push(...varint(field << 3), ...varint(n));
}
function put_bytes(out, field, bytes) {
  out.push(...varint((field << 3) | 2), ...varint(bytes.length));
  for (const b of bytes) out.push(b);
}
function put_text(out, field, text) {
  if (text) put_bytes(out, field, text_bytes.encode(text));
}

export function pack_record(r) {
  const out = [];
  put_text(out, 1, r.id);
  put_number(out, 2, r.index);
  put_number(out, 3, r.event_time_ms);
  if (r.actor) {
    const actor = [];
    put_text(actor, 1, r.actor.id);
    put_text(actor, 2, r.actor.scope);
    put_text(actor, 3, r.actor.claim);
    put_bytes(out, 4, actor);
  }
  [[5, "action"], [6, "object"], [7, "reason"], [8, "evidence"], [9, "from_state"], [10, "to_state"]].forEach(([field, name]) => put_text(out, field, r[name]));
  put_number(out, 11, r.epoch);
  const details = Object.entries(r.details ?? {}).map(([k, v]) => [k, v, hex(text_bytes.encode(k))]).sort((a, b) => (a[2] < b[2] ? -1 : 1));
  for (const [name, value] of details) {
    const entry = [];
    put_text(entry, 1, name);
    put_text(entry, 2, value);
    put_bytes(out, 15, entry);
  }
  return Uint8Array.from(out);
}

export const leaf_hash = (record) => sha256(LEAF, pack_record(record));

// ---- proofs (RFC 9162, 2.1.3.2 and 2.1.4.2). Sizes are below 2^53, so numbers do; halves by division, as shifts would cut at 32 bits. ----

const odd = (n) => n % 2 === 1, half = (n) => Math.floor(n / 2);

export async function verify_inclusion(leaf, index, size, path, root) {
  if (!(index < size)) return false;
  let fn = index, sn = size - 1, r = leaf;
  for (const p of path) {
    if (sn === 0) return false;
    if (odd(fn) || fn === sn) {
      r = await node_hash(p, r);
      while (!odd(fn) && fn !== 0) {
        fn = half(fn);
        sn = half(sn);
      }
    } else r = await node_hash(r, p);
    fn = half(fn);
    sn = half(sn);
  }
  return sn === 0 && same(r, root);
}

export async function verify_consistency(from, from_root, to, to_root, path) {
  if (!(from > 0 && from <= to)) return false;
  if (from === to) return path.length === 0 && same(from_root, to_root);
  const power = Number.isInteger(Math.log2(from)), rest = power ? path : path.slice(1);
  if (path.length === 0) return false;
  let fn = from - 1, sn = to - 1, fr = power ? from_root : path[0], sr = fr;
  while (odd(fn)) {
    fn = half(fn);
    sn = half(sn);
  }
  for (const p of rest) {
    if (sn === 0) return false;
    if (odd(fn) || fn === sn) {
      fr = await node_hash(p, fr);
      sr = await node_hash(p, sr);
      while (!odd(fn) && fn !== 0) {
        fn = half(fn);
        sn = half(sn);
      }
    } else sr = await node_hash(sr, p);
    fn = half(fn);
    sn = half(sn);
  }
  return sn === 0 && same(fr, from_root) && same(sr, to_root);
}

/** The tree as it grows, in the hashes of its complete subtrees only. */
export class Tree {
  constructor() {
    this.size = 0;
    this.peaks = []; // [height, hash], highest first
  }
  async append(leaf) {
    let height = 0, hash = leaf;
    while (this.peaks.length && this.peaks.at(-1)[0] === height) {
      hash = await node_hash(this.peaks.pop()[1], hash);
      height++;
    }
    this.peaks.push([height, hash]);
    this.size++;
  }
  async root() {
    if (!this.size) return sha256(new Uint8Array());
    let hash = this.peaks.at(-1)[1];
    for (let i = this.peaks.length - 2; i >= 0; i--) hash = await node_hash(this.peaks[i][1], hash);
    return hash;
  }
}

// ---- heads ----

function u64(n) {
  const out = new Uint8Array(8);
  new DataView(out.buffer).setBigUint64(0, BigInt(n));
  return out;
}

/** A key for verify_head; null where this browser knows no Ed25519. */
export async function head_key(public_key) {
  try {
    return await crypto.subtle.importKey("raw", public_key, { name: "Ed25519" }, false, ["verify"]);
  } catch {
    return null;
  }
}
export const verify_head = (key, size, root, time_ms, signature) =>
  crypto.subtle.verify({ name: "Ed25519" }, key, signature, join(text_bytes.encode("genloop.v1.AuditHead"), Uint8Array.of(0), u64(size), root, u64(time_ms)));
