/* A small engine for Qwen3-VL in C: it runs a checkpoint in float32, with plain loops, and writes a trace.
 *
 *   engine CHECKPOINT INPUTS OUT [TOKEN ...]
 *
 * CHECKPOINT is a folder with config.json and model.safetensors, INPUTS the inputs.safetensors of a bundle's case, OUT
 * the trace: a safetensors file whose tensors are named "seam#call". The tokens are those to feed in decode steps, row
 * after row. The program shares no code with this repository and knows only what is written for authors of engines.
 *
 * Build: cc -std=c11 -O2 -o engine engine.c -lm
 *
 * Shapes: B rows, S new tokens, T tokens so far, C hidden size, H query heads, K key heads, D head dim, N patches. */

#include <ctype.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void die(const char *format, ...) {
  va_list list;
  va_start(list, format);
  fputs("engine: ", stderr);
  vfprintf(stderr, format, list);
  fputc('\n', stderr);
  va_end(list);
  exit(2);
}

static void *take(size_t bytes) {
  void *memory = calloc(bytes ? bytes : 1, 1);
  if (!memory) die("no memory for %zu bytes", bytes);
  return memory;
}

static float *floats(size_t count) { return take(count * sizeof(float)); }

static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) die("%s cannot be opened", path);
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  char *bytes = take(*size + 1);
  if (fread(bytes, 1, *size, file) != *size) die("%s cannot be read", path);
  fclose(file);
  return bytes;
}

/* ---- JSON: objects and arrays as lists of named nodes -------------------------------------------------------- */

typedef struct Json Json;
struct Json {
  char *name, *text; /* text: a string's content */
  double number;     /* also true (1) and false (0) */
  Json *first, *next;
};

static const char *at; /* where the parser is */

static void skip(void) {
  while (isspace((unsigned char)*at)) at++;
}

static char *string(void) {
  const char *start = ++at;
  while (*at && *at != '"') at += *at == '\\' && at[1] ? 2 : 1;
  size_t length = (size_t)(at - start);
  char *copy = take(length + 1);
  memcpy(copy, start, length); /* names here have no escapes */
  if (*at) at++;
  return copy;
}

static Json *value(void) {
  Json *node = take(sizeof *node);
  skip();
  if (*at == '{' || *at == '[') {
    char open = *at++, close = open == '{' ? '}' : ']';
    Json **last = &node->first;
    for (skip(); *at && *at != close; skip()) {
      char *name = NULL;
      if (open == '{') {
        name = string();
        skip();
        at++; /* : */
      }
      *last = value();
      (*last)->name = name;
      last = &(*last)->next;
      skip();
      if (*at == ',') at++;
    }
    if (*at) at++;
  } else if (*at == '"') {
    node->text = string();
  } else if (isalpha((unsigned char)*at)) {
    node->number = *at == 't';
    while (isalpha((unsigned char)*at)) at++;
  } else {
    char *end;
    node->number = strtod(at, &end);
    if (end == at) die("a JSON file is damaged near '%.20s'", at);
    at = end;
  }
  return node;
}

static Json *find(const Json *object, const char *name) {
  for (Json *node = object->first; node; node = node->next)
    if (node->name && !strcmp(node->name, name)) return node;
  return NULL;
}

static Json *field(const Json *object, const char *name) {
  Json *node = find(object, name);
  if (!node) die("config.json has no %s", name);
  return node;
}

static int whole(const Json *object, const char *name) { return (int)field(object, name)->number; }

/* ---- safetensors ---------------------------------------------------------------------------------------------- */

typedef struct {
  Json *header;
  char *data;
  const char *path;
} Tensors;

typedef struct {
  void *data;
  int rank;
  long shape[8];
} Tensor;

static Tensors open_tensors(const char *path) {
  size_t size;
  char *bytes = read_file(path, &size);
  uint64_t length;
  memcpy(&length, bytes, 8);
  if (size < 8 || length > size - 8) die("%s is no safetensors file", path);
  char *text = take(length + 1);
  memcpy(text, bytes + 8, length);
  at = text;
  return (Tensors){value(), bytes + 8 + length, path};
}

static int has(Tensors file, const char *name) { return find(file.header, name) != NULL; }

static Tensor tensor(Tensors file, const char *dtype, const char *format, ...) {
  char name[256];
  va_list list;
  va_start(list, format);
  vsnprintf(name, sizeof name, format, list);
  va_end(list);
  Json *found = find(file.header, name);
  if (!found) die("%s has no %s", file.path, name);
  if (strcmp(field(found, "dtype")->text, dtype)) die("%s is %s, not %s", name, field(found, "dtype")->text, dtype);
  Tensor out = {file.data + (size_t)field(found, "data_offsets")->first->number, 0, {0}};
  for (Json *size = field(found, "shape")->first; size; size = size->next) out.shape[out.rank++] = (long)size->number;
  return out;
}

static Tensors weights;

/* A weight in float32. One in bfloat16 is widened, and the wide copy kept in its node of the header. */
static float *weight(const char *format, ...) {
  char name[256];
  va_list list;
  va_start(list, format);
  vsnprintf(name, sizeof name, format, list);
  va_end(list);
  Json *found = find(weights.header, name);
  if (!found) die("%s has no %s", weights.path, name);
  if (strcmp(field(found, "dtype")->text, "BF16")) return tensor(weights, "F32", "%s", name).data;
  if (!found->text) {
    Tensor narrow = tensor(weights, "BF16", "%s", name);
    size_t count = 1;
    for (int axis = 0; axis < narrow.rank; axis++) count *= (size_t)narrow.shape[axis];
    uint32_t *wide = take(count * sizeof *wide);
    for (size_t i = 0; i < count; i++) wide[i] = (uint32_t)((uint16_t *)narrow.data)[i] << 16;
    found->text = (char *)wide;
  }
  return (float *)found->text;
}

/* ---- the trace: every value is copied, and all are written at the end ------------------------------------------ */

typedef struct {
  char name[96];
  const char *dtype;
  int rank;
  long shape[8];
  size_t bytes;
  void *data;
} Value;

static Value *values;
static int value_count;

static void emit(const char *dtype, const void *data, const char *name, int rank, ...) {
  int call = 0;
  char prefix[80];
  snprintf(prefix, sizeof prefix, "%s#", name);
  for (int i = 0; i < value_count; i++) call += !strncmp(values[i].name, prefix, strlen(prefix));
  values = realloc(values, (size_t)(value_count + 1) * sizeof *values);
  if (!values) die("no memory for the trace");
  Value *v = &values[value_count++];
  snprintf(v->name, sizeof v->name, "%s%d", prefix, call);
  v->dtype = dtype;
  v->rank = rank;
  v->bytes = !strcmp(dtype, "F32") || !strcmp(dtype, "I32") ? 4 : !strcmp(dtype, "I64") ? 8 : 1;
  va_list list;
  va_start(list, rank);
  for (int i = 0; i < rank; i++) v->bytes *= (size_t)(v->shape[i] = va_arg(list, long));
  va_end(list);
  v->data = take(v->bytes);
  memcpy(v->data, data, v->bytes);
}

static char seam_name[96];

static const char *seam(const char *format, ...) {
  va_list list;
  va_start(list, format);
  vsnprintf(seam_name, sizeof seam_name, format, list);
  va_end(list);
  return seam_name;
}

static void write_trace(const char *path) {
  size_t room = 64 + (size_t)value_count * 320, used = 0, offset = 0;
  char *header = take(room);
  used += (size_t)snprintf(header, room, "{");
  for (int i = 0; i < value_count; i++) {
    Value *v = &values[i];
    used += (size_t)snprintf(header + used, room - used, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", v->name,
                             v->dtype);
    for (int axis = 0; axis < v->rank; axis++)
      used += (size_t)snprintf(header + used, room - used, "%s%ld", axis ? "," : "", v->shape[axis]);
    used += (size_t)snprintf(header + used, room - used, "],\"data_offsets\":[%zu,%zu]}", offset, offset + v->bytes);
    offset += v->bytes;
  }
  header[used++] = '}';
  while (used % 8) header[used++] = ' ';
  uint64_t length = used;
  FILE *file = fopen(path, "wb");
  if (!file) die("%s cannot be written", path);
  fwrite(&length, 8, 1, file);
  fwrite(header, 1, used, file);
  for (int i = 0; i < value_count; i++) fwrite(values[i].data, 1, values[i].bytes, file);
  if (fclose(file)) die("%s cannot be written", path);
}

/* ---- arithmetic in plain loops --------------------------------------------------------------------------------- */

static float dot(const float *a, const float *b, int count) {
  float sum = 0;
  for (int i = 0; i < count; i++) sum += a[i] * b[i];
  return sum;
}

/* x (rows, in) times the transposed weight (out, in), plus bias */
static float *linear(const float *x, long rows, int in, int out, const float *w, const float *bias) {
  float *y = floats((size_t)rows * out);
  for (long r = 0; r < rows; r++)
    for (int o = 0; o < out; o++) y[r * out + o] = dot(x + r * in, w + (long)o * in, in) + (bias ? bias[o] : 0);
  return y;
}

static float *layer_norm(const float *x, long rows, int width, const float *w, const float *bias) {
  float *y = floats((size_t)rows * width);
  for (long r = 0; r < rows; r++) {
    const float *in = x + r * width;
    float mean = 0, variance = 0;
    for (int i = 0; i < width; i++) mean += in[i];
    mean /= width;
    for (int i = 0; i < width; i++) variance += (in[i] - mean) * (in[i] - mean);
    float scale = 1 / sqrtf(variance / width + 1e-6f);
    for (int i = 0; i < width; i++) y[r * width + i] = (in[i] - mean) * scale * w[i] + bias[i];
  }
  return y;
}

static float *rms_norm(const float *x, long rows, int width, const float *w, float eps) {
  float *y = floats((size_t)rows * width);
  for (long r = 0; r < rows; r++) {
    const float *in = x + r * width;
    float scale = 1 / sqrtf(dot(in, in, width) / width + eps);
    for (int i = 0; i < width; i++) y[r * width + i] = w[i] * (in[i] * scale);
  }
  return y;
}

static void add(float *x, const float *y, size_t count) {
  for (size_t i = 0; i < count; i++) x[i] += y[i];
}

static void softmax(float *x, int count) {
  float highest = -FLT_MAX, sum = 0;
  for (int i = 0; i < count; i++) highest = x[i] > highest ? x[i] : highest;
  for (int i = 0; i < count; i++) sum += x[i] = expf(x[i] - highest);
  for (int i = 0; i < count; i++) x[i] /= sum;
}

/* x (rows, heads, D): channel i turns with channel i + D/2 by the angles of its row, cos and sin (rows, D) */
static float *rotate(const float *x, long rows, int heads, int d, const float *cosine, const float *sine) {
  float *y = floats((size_t)rows * heads * d);
  for (long r = 0; r < rows; r++)
    for (int h = 0; h < heads; h++) {
      const float *in = x + (r * heads + h) * d, *c = cosine + r * d, *s = sine + r * d;
      float *out = y + (r * heads + h) * d;
      for (int i = 0; i < d; i++) out[i] = in[i] * c[i] + (i < d / 2 ? -in[i + d / 2] : in[i - d / 2]) * s[i];
    }
  return y;
}

/* ---- the vision tower ------------------------------------------------------------------------------------------ */

static Json *config, *vision, *text;

/* (rows, C) of patches to (rows / m^2, out) */
static float *merge(const float *x, long rows, const char *prefix, int after) {
  int c = whole(vision, "hidden_size"), m = whole(vision, "spatial_merge_size"), wide = c * m * m;
  long merged = rows / (m * m);
  const float *w = weight("%s.norm.weight", prefix), *b = weight("%s.norm.bias", prefix);
  float *y = after ? layer_norm(x, merged, wide, w, b) : layer_norm(x, rows, c, w, b);
  y = linear(y, merged, wide, wide, weight("%s.linear_fc1.weight", prefix), weight("%s.linear_fc1.bias", prefix));
  for (long i = 0; i < merged * wide; i++) y[i] = 0.5f * y[i] * (1 + erff(y[i] * 0.70710678f));
  return linear(y, merged, wide, whole(vision, "out_hidden_size"), weight("%s.linear_fc2.weight", prefix),
                weight("%s.linear_fc2.bias", prefix));
}

/* One pass: pixels (N, P) of pictures with grids (M, 3). Fills features[0] (merger) and features[1 ...] (DeepStack). */
static long see(const float *pixels, const int64_t *grids, long pictures, float **features) {
  int c = whole(vision, "hidden_size"), heads = whole(vision, "num_heads"), d = c / heads;
  int m = whole(vision, "spatial_merge_size"), patch = whole(vision, "patch_size");
  int width = whole(vision, "in_channels") * whole(vision, "temporal_patch_size") * patch * patch;
  int side = (int)lround(sqrt(whole(vision, "num_position_embeddings")));
  long n = 0, segments = 0;
  for (long p = 0; p < pictures; p++) {
    n += grids[3 * p] * grids[3 * p + 1] * grids[3 * p + 2];
    segments += grids[3 * p];
  }
  float *x = linear(pixels, n, width, c, weight("model.visual.patch_embed.proj.weight"),
                    weight("model.visual.patch_embed.proj.bias"));
  emit("F32", x, "vision.patch_embed", 2, n, (long)c);

  const float *table = weight("model.visual.pos_embed.weight");
  float *position = floats((size_t)n * c), *cosine = floats((size_t)n * d), *sine = floats((size_t)n * d);
  int32_t *bounds = take((size_t)(segments + 1) * sizeof *bounds);
  long at_patch = 0, at_segment = 0;
  for (long p = 0; p < pictures; p++) {
    int t = (int)grids[3 * p], h = (int)grids[3 * p + 1], w = (int)grids[3 * p + 2];
    float down = h > 1 ? (float)(side - 1) / (h - 1) : 0, right = w > 1 ? (float)(side - 1) / (w - 1) : 0;
    for (int frame = 0; frame < t; frame++) {
      for (int block = 0; block < h * w; block++, at_patch++) {
        int inside = block % (m * m), outside = block / (m * m); /* merge order: m x m blocks in raster order */
        int row = outside / (w / m) * m + inside / m, column = outside % (w / m) * m + inside % m;
        float y = row * down, z = column * right;
        int y0 = (int)y, z0 = (int)z, y1 = y0 + 1 < side ? y0 + 1 : side - 1, z1 = z0 + 1 < side ? z0 + 1 : side - 1;
        float fy = y - y0, fz = z - z0;
        for (int i = 0; i < c; i++) {
          float top = (1 - fz) * table[(y0 * side + z0) * c + i] + fz * table[(y0 * side + z1) * c + i];
          float bottom = (1 - fz) * table[(y1 * side + z0) * c + i] + fz * table[(y1 * side + z1) * c + i];
          position[at_patch * c + i] = (1 - fy) * top + fy * bottom;
        }
        for (int i = 0; i < d / 4; i++) {
          float speed = powf(10000.0f, -(float)(2 * i) / (d / 2)); /* a rotary embedding of D/2 for each axis */
          float angles[2] = {row * speed, column * speed};
          for (int axis = 0; axis < 2; axis++)
            for (int half = 0; half < 2; half++) {
              long place = at_patch * d + half * (d / 2) + axis * (d / 4) + i;
              cosine[place] = cosf(angles[axis]);
              sine[place] = sinf(angles[axis]);
            }
        }
      }
      bounds[++at_segment] = (int32_t)at_patch;
    }
  }
  emit("F32", position, "vision.pos_embed", 2, n, (long)c);
  add(x, position, (size_t)n * c);
  emit("F32", x, "vision.embed", 2, n, (long)c);
  emit("F32", cosine, "vision.rope_cos", 2, n, (long)d);
  emit("F32", sine, "vision.rope_sin", 2, n, (long)d);
  emit("I32", bounds, "vision.cu_seqlens", 1, segments + 1);

  int taps = 0, depth = whole(vision, "depth"), hidden = whole(vision, "intermediate_size");
  for (int b = 0; b < depth; b++) {
    char prefix[64], name[64];
    snprintf(prefix, sizeof prefix, "model.visual.blocks.%d", b);
    snprintf(name, sizeof name, "vision.blocks.%d", b);
    float *y = layer_norm(x, n, c, weight("%s.norm1.weight", prefix), weight("%s.norm1.bias", prefix));
    emit("F32", y, seam("%s.norm1", name), 2, n, (long)c);
    float *qkv = linear(y, n, c, 3 * c, weight("%s.attn.qkv.weight", prefix), weight("%s.attn.qkv.bias", prefix));
    emit("F32", qkv, seam("%s.attn.qkv", name), 2, n, 3L * c);
    float *parts[3];
    for (int part = 0; part < 3; part++) {
      parts[part] = floats((size_t)n * c);
      for (long r = 0; r < n; r++) memcpy(parts[part] + r * c, qkv + r * 3 * c + part * c, (size_t)c * sizeof(float));
    }
    float *q = rotate(parts[0], n, heads, d, cosine, sine), *k = rotate(parts[1], n, heads, d, cosine, sine);
    emit("F32", q, seam("%s.attn.q_rope", name), 3, n, (long)heads, (long)d);
    emit("F32", k, seam("%s.attn.k_rope", name), 3, n, (long)heads, (long)d);
    float *context = floats((size_t)n * c), *scores = floats((size_t)n);
    for (long s = 0; s < segments; s++)
      for (long r = bounds[s]; r < bounds[s + 1]; r++)
        for (int h = 0; h < heads; h++) {
          int keys = bounds[s + 1] - bounds[s];
          for (int j = 0; j < keys; j++)
            scores[j] = dot(q + r * c + h * d, k + (bounds[s] + j) * (long)c + h * d, d) / sqrtf((float)d);
          softmax(scores, keys);
          for (int j = 0; j < keys; j++)
            for (int i = 0; i < d; i++)
              context[r * c + h * d + i] += scores[j] * parts[2][(bounds[s] + j) * (long)c + h * d + i];
        }
    emit("F32", context, seam("%s.attn.context", name), 2, n, (long)c);
    y = linear(context, n, c, c, weight("%s.attn.proj.weight", prefix), weight("%s.attn.proj.bias", prefix));
    emit("F32", y, seam("%s.attn.out", name), 2, n, (long)c);
    add(x, y, (size_t)n * c);
    y = layer_norm(x, n, c, weight("%s.norm2.weight", prefix), weight("%s.norm2.bias", prefix));
    emit("F32", y, seam("%s.norm2", name), 2, n, (long)c);
    y = linear(y, n, c, hidden, weight("%s.mlp.linear_fc1.weight", prefix), weight("%s.mlp.linear_fc1.bias", prefix));
    for (long i = 0; i < n * hidden; i++)
      y[i] = 0.5f * y[i] * (1 + tanhf(0.7978845608f * (y[i] + 0.044715f * y[i] * y[i] * y[i])));
    y = linear(y, n, hidden, c, weight("%s.mlp.linear_fc2.weight", prefix), weight("%s.mlp.linear_fc2.bias", prefix));
    emit("F32", y, seam("%s.mlp.out", name), 2, n, (long)c);
    add(x, y, (size_t)n * c);
    emit("F32", x, seam("%s.out", name), 2, n, (long)c);
    for (Json *tap = field(vision, "deepstack_visual_indexes")->first; tap; tap = tap->next)
      if ((int)tap->number == b) {
        snprintf(prefix, sizeof prefix, "model.visual.deepstack_merger_list.%d", taps++);
        features[taps] = merge(x, n, prefix, 1);
        emit("F32", features[taps], seam("vision.deepstack.%d", taps - 1), 2, n / (m * m),
             (long)whole(vision, "out_hidden_size"));
      }
  }
  features[0] = merge(x, n, "model.visual.merger", 0);
  emit("F32", features[0], "vision.merger", 2, n / (m * m), (long)whole(vision, "out_hidden_size"));
  return n / (m * m);
}

/* ---- the language model ---------------------------------------------------------------------------------------- */

enum { MOST_TAPS = 8, MOST_LAYERS = 128 };

static struct {
  int layers, c, heads, keys, d, vocabulary, hidden, taps;
  float eps, theta;
  int section[3];
} model;

/* per layer: keys and values (B, K, capacity, D); visible (B, capacity) */
static float *cache[MOST_LAYERS][2];
static uint8_t *visible;
static long batch, capacity, filled;

/* The cache (B, K, T, D) without its unused end */
static void emit_cache(int layer, int which, const char *name) {
  long row = model.d;
  float *used = floats((size_t)batch * model.keys * filled * row);
  for (long bk = 0; bk < batch * model.keys; bk++)
    memcpy(used + bk * filled * row, cache[layer][which] + bk * capacity * row, (size_t)(filled * row) * sizeof(float));
  emit("F32", used, seam("text.layers.%d.attn.%s", layer, name), 4, batch, (long)model.keys, filled, row);
}

/* One forward: x (B, S, C) embeddings, positions (3, B, S), deepstack[i] (B, S, C) or NULL. Returns logits (B, S, V). */
static float *forward(float *x, const int64_t *positions, long s, float **deepstack) {
  long rows = batch * s, c = model.c, d = model.d, h = model.heads, k = model.keys, t = filled;
  emit("F32", x, "text.inputs_embeds", 3, batch, s, c);
  float *cosine = floats((size_t)(rows * d)), *sine = floats((size_t)(rows * d));
  for (long r = 0; r < rows; r++)
    for (int i = 0; i < d / 2; i++) {
      int axis = i % 3; /* t, h, w, t, h, w, ... as long as h and w have some left, then t */
      if (axis && i >= 3 * model.section[axis]) axis = 0;
      float angle = (float)positions[axis * rows + r] * (1 / powf(model.theta, (float)(2 * i) / d));
      cosine[r * d + i] = cosine[r * d + i + d / 2] = cosf(angle);
      sine[r * d + i] = sine[r * d + i + d / 2] = sinf(angle);
    }
  emit("F32", cosine, "text.rope_cos", 3, batch, s, d);
  emit("F32", sine, "text.rope_sin", 3, batch, s, d);
  uint8_t *mask = take((size_t)(rows * t)); /* (B, 1, S, T): whether a query may look at a key */
  for (long b = 0; b < batch; b++)
    for (long i = 0; i < s; i++)
      for (long j = 0; j < t; j++) {
        long query = t - s + i;
        mask[(b * s + i) * t + j] = (j <= query && visible[b * capacity + j]) || j == query;
      }
  emit("BOOL", mask, "text.causal_mask", 4, batch, 1L, s, t);
  float *scores = floats((size_t)t);
  for (int layer = 0; layer < model.layers; layer++) {
    char prefix[64], name[64];
    snprintf(prefix, sizeof prefix, "model.language_model.layers.%d", layer);
    snprintf(name, sizeof name, "text.layers.%d", layer);
    float *y = rms_norm(x, rows, (int)c, weight("%s.input_layernorm.weight", prefix), model.eps);
    emit("F32", y, seam("%s.input_norm", name), 3, batch, s, c);
    float *q = linear(y, rows, (int)c, (int)(h * d), weight("%s.self_attn.q_proj.weight", prefix), NULL);
    float *key = linear(y, rows, (int)c, (int)(k * d), weight("%s.self_attn.k_proj.weight", prefix), NULL);
    float *v = linear(y, rows, (int)c, (int)(k * d), weight("%s.self_attn.v_proj.weight", prefix), NULL);
    q = rms_norm(q, rows * h, (int)d, weight("%s.self_attn.q_norm.weight", prefix), model.eps);
    key = rms_norm(key, rows * k, (int)d, weight("%s.self_attn.k_norm.weight", prefix), model.eps);
    emit("F32", q, seam("%s.attn.q_norm", name), 4, batch, s, h, d);
    emit("F32", key, seam("%s.attn.k_norm", name), 4, batch, s, k, d);
    emit("F32", v, seam("%s.attn.v", name), 4, batch, s, k, d);
    q = rotate(q, rows, (int)h, (int)d, cosine, sine);
    key = rotate(key, rows, (int)k, (int)d, cosine, sine);
    emit("F32", q, seam("%s.attn.q_rope", name), 4, batch, s, h, d);
    emit("F32", key, seam("%s.attn.k_rope", name), 4, batch, s, k, d);
    for (long b = 0; b < batch; b++)
      for (long i = 0; i < s; i++)
        for (long g = 0; g < k; g++) {
          long to = ((b * k + g) * capacity + t - s + i) * d, from = ((b * s + i) * k + g) * d;
          memcpy(cache[layer][0] + to, key + from, (size_t)d * sizeof(float));
          memcpy(cache[layer][1] + to, v + from, (size_t)d * sizeof(float));
        }
    emit_cache(layer, 0, "k_cache");
    emit_cache(layer, 1, "v_cache");
    float *context = floats((size_t)(rows * h * d));
    for (long r = 0; r < rows; r++)
      for (long head = 0; head < h; head++) {
        long start = (r / s * k + head / (h / k)) * capacity * d;
        for (long j = 0; j < t; j++)
          scores[j] = mask[r * t + j]
                          ? dot(q + (r * h + head) * d, cache[layer][0] + start + j * d, (int)d) / sqrtf((float)d)
                          : -INFINITY;
        softmax(scores, (int)t);
        for (long j = 0; j < t; j++)
          if (mask[r * t + j])
            for (long i = 0; i < d; i++)
              context[(r * h + head) * d + i] += scores[j] * cache[layer][1][start + j * d + i];
      }
    emit("F32", context, seam("%s.attn.context", name), 3, batch, s, h * d);
    y = linear(context, rows, (int)(h * d), (int)c, weight("%s.self_attn.o_proj.weight", prefix), NULL);
    emit("F32", y, seam("%s.attn.out", name), 3, batch, s, c);
    add(x, y, (size_t)(rows * c));
    y = rms_norm(x, rows, (int)c, weight("%s.post_attention_layernorm.weight", prefix), model.eps);
    emit("F32", y, seam("%s.post_attention_norm", name), 3, batch, s, c);
    float *gate = linear(y, rows, (int)c, model.hidden, weight("%s.mlp.gate_proj.weight", prefix), NULL);
    float *up = linear(y, rows, (int)c, model.hidden, weight("%s.mlp.up_proj.weight", prefix), NULL);
    for (long i = 0; i < rows * model.hidden; i++) gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
    y = linear(gate, rows, model.hidden, (int)c, weight("%s.mlp.down_proj.weight", prefix), NULL);
    emit("F32", y, seam("%s.mlp.out", name), 3, batch, s, c);
    add(x, y, (size_t)(rows * c));
    emit("F32", x, seam("%s.out", name), 3, batch, s, c);
    if (deepstack && layer < model.taps) {
      add(x, deepstack[layer], (size_t)(rows * c));
      emit("F32", x, seam("%s.deepstack", name), 3, batch, s, c);
    }
  }
  x = rms_norm(x, rows, (int)c, weight("model.language_model.norm.weight"), model.eps);
  emit("F32", x, "text.norm", 3, batch, s, c);
  int tied = (int)field(config, "tie_word_embeddings")->number;
  float *head = tied ? weight("model.language_model.embed_tokens.weight") : weight("lm_head.weight");
  float *logits = linear(x, rows, (int)c, model.vocabulary, head, NULL);
  emit("F32", logits, "logits", 3, batch, s, (long)model.vocabulary);
  return logits;
}

static float *embed(const int64_t *ids, long s) {
  const float *table = weight("model.language_model.embed_tokens.weight");
  float *x = floats((size_t)(batch * s * model.c));
  for (long r = 0; r < batch * s; r++) {
    if (ids[r] < 0 || ids[r] >= model.vocabulary) die("token %ld is not in the vocabulary", (long)ids[r]);
    memcpy(x + r * model.c, table + ids[r] * model.c, (size_t)model.c * sizeof(float));
  }
  emit("F32", x, "text.embed_tokens", 3, batch, s, (long)model.c);
  return x;
}

static void read_config(void) {
  vision = field(config, "vision_config");
  text = field(config, "text_config");
  model.layers = whole(text, "num_hidden_layers");
  model.c = whole(text, "hidden_size");
  model.heads = whole(text, "num_attention_heads");
  model.keys = whole(text, "num_key_value_heads");
  model.d = whole(text, "head_dim");
  model.vocabulary = whole(text, "vocab_size");
  model.hidden = whole(text, "intermediate_size");
  model.eps = (float)field(text, "rms_norm_eps")->number;
  Json *rope = find(text, "rope_parameters") ? field(text, "rope_parameters") : field(text, "rope_scaling");
  model.theta = (float)(find(rope, "rope_theta") ? field(rope, "rope_theta") : field(text, "rope_theta"))->number;
  int axis = 0;
  for (Json *size = field(rope, "mrope_section")->first; size; size = size->next) model.section[axis++] = (int)size->number;
  for (Json *tap = field(vision, "deepstack_visual_indexes")->first; tap; tap = tap->next) model.taps++;
  if (model.layers > MOST_LAYERS || model.taps >= MOST_TAPS) die("the model has more layers or taps than this program");
}

int main(int count, char **arguments) {
  if (count < 4) die("usage: engine CHECKPOINT INPUTS OUT [TOKEN ...]");
  char path[4096];
  size_t size;
  snprintf(path, sizeof path, "%s/config.json", arguments[1]);
  at = read_file(path, &size);
  config = value();
  read_config();
  snprintf(path, sizeof path, "%s/model.safetensors", arguments[1]);
  weights = open_tensors(strdup(path));
  Tensors inputs = open_tensors(arguments[2]);

  Tensor ids_tensor = tensor(inputs, "I64", "input_ids");
  const int64_t *ids = ids_tensor.data, *attention = tensor(inputs, "I64", "attention_mask").data;
  const int64_t *positions = tensor(inputs, "I64", "position_ids").data; /* (3, B, S) */
  long s = ids_tensor.shape[1];
  batch = ids_tensor.shape[0];
  long steps = (count - 4) / batch;
  capacity = s + steps;
  visible = take((size_t)(batch * capacity));
  for (int layer = 0; layer < model.layers; layer++)
    for (int which = 0; which < 2; which++)
      cache[layer][which] = floats((size_t)(batch * model.keys * capacity * model.d));
  emit("I64", ids, "input_ids", 2, batch, s);
  emit("I64", attention, "attention_mask", 2, batch, s);
  emit("I64", positions, "text.position_ids", 3, 3L, batch, s);
  int64_t *next = take((size_t)batch * sizeof *next), *delta = take((size_t)batch * sizeof *delta);
  for (long b = 0; b < batch; b++) {
    long real = 0;
    for (long i = 0; i < s; i++) {
      visible[b * capacity + i] = attention[b * s + i] != 0;
      real += attention[b * s + i] != 0;
      for (int axis = 0; axis < 3 && attention[b * s + i]; axis++)
        if (positions[(axis * batch + b) * s + i] >= next[b]) next[b] = positions[(axis * batch + b) * s + i] + 1;
    }
    delta[b] = next[b] - real;
  }
  emit("I64", delta, "rope_delta", 2, batch, 1L);
  float *x = embed(ids, s), *deepstack[MOST_TAPS] = {0};
  int seen = 0;
  const char *kinds[2][4] = {{"image", "pixel_values", "image_grid_thw", "image_token_id"},
                             {"video", "pixel_values_videos", "video_grid_thw", "video_token_id"}};
  for (int kind = 0; kind < 2; kind++) {
    if (!has(inputs, kinds[kind][1])) continue;
    Tensor pixels = tensor(inputs, "F32", kinds[kind][1]), grids = tensor(inputs, "I64", kinds[kind][2]);
    emit("F32", pixels.data, seam("%s_pixels", kinds[kind][0]), 2, pixels.shape[0], pixels.shape[1]);
    emit("I64", grids.data, seam("%s_grid_thw", kinds[kind][0]), 2, grids.shape[0], 3L);
    uint8_t *mask = take((size_t)(batch * s));
    for (long r = 0; r < batch * s; r++) mask[r] = ids[r] == whole(config, kinds[kind][3]) && attention[r];
    emit("BOOL", mask, seam("%s_mask", kinds[kind][0]), 2, batch, s);
    float *features[MOST_TAPS + 1];
    long merged = see(pixels.data, grids.data, grids.shape[0], features), used = 0;
    for (long r = 0; r < batch * s; r++) {
      if (!mask[r]) continue;
      if (used == merged) die("the prompt has more tokens for pictures than the pictures have features");
      memcpy(x + r * model.c, features[0] + used * model.c, (size_t)model.c * sizeof(float));
      for (int tap = 0; tap < model.taps; tap++) {
        if (!deepstack[tap]) deepstack[tap] = floats((size_t)(batch * s * model.c));
        memcpy(deepstack[tap] + r * model.c, features[tap + 1] + used * model.c, (size_t)model.c * sizeof(float));
      }
      used++;
    }
    seen = 1;
  }
  filled = s;
  forward(x, positions, s, seen ? deepstack : NULL);
  for (long step = 0; step < steps; step++) {
    int64_t *fed = take((size_t)batch * sizeof *fed), *place = take((size_t)(3 * batch) * sizeof *place);
    for (long b = 0; b < batch; b++) {
      fed[b] = strtol(arguments[4 + b * steps + step], NULL, 10);
      for (int axis = 0; axis < 3; axis++) place[axis * batch + b] = next[b] + step;
      visible[b * capacity + filled] = 1;
    }
    filled++;
    emit("I64", fed, "input_ids", 2, batch, 1L);
    emit("I64", place, "text.position_ids", 3, 3L, batch, 1L);
    forward(embed(fed, 1), place, 1, NULL);
  }
  write_trace(arguments[3]);
  return 0;
}
