/* options.h - the one list of options of the command line. The parser, the help pages, the error messages and the
 * settings stored in a run folder are all derived from OPTION_LIST: to add an option, add a line. */
#ifndef QSBITS_CLI_OPTIONS_H
#define QSBITS_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "qsbits/qsbits.h"

/* Commands an option belongs to. */
enum command_bit {
    TRAIN = 1, EVAL = 2, GENERATE = 4, INSPECT = 8, INFO = 16, SIGNATURE = 32, BENCH = 64, COMPARE = 128, REPORT = 256,
    COMPLETION = 512, MANUAL = 1024, INIT = 2048, PLAN = 4096,
    RUNS = TRAIN | COMPARE,
    COMPUTE = TRAIN | COMPARE | EVAL | GENERATE | INFO | SIGNATURE | BENCH | PLAN,
    RESULTS = COMPUTE | INSPECT | INIT,
    SHAPED = RUNS | INIT | PLAN,
    EVERY = 8191
};

/* SETTING: stored in config.json and taken from there by --resume. */
enum option_traits { PLAIN = 0, SETTING = 1 };

/* AMOUNT: a number with a unit, of bytes (12GB, 512MiB) or of things (1.5B, 300M). */
typedef enum option_kind { FLAG, INT, REAL, TEXT, CHOICE, AMOUNT } option_kind;

/* Choices as "a|b|c|", in the order of the enums of the library. */
#define CHOICE_OPTIMIZER(name, text, what) text "|"
#define CHOICE_FSM(name, text, format, levels, sticky) text "|"
#define CHOICES_OPTIMIZER QS_OPTIMIZER_LIST(CHOICE_OPTIMIZER)
#define CHOICES_FSM QS_FSM_LIST(CHOICE_FSM)
#define CHOICE_PRECISION(name, text, what) text "|"
#define CHOICES_PRECISION QS_PRECISION_LIST(CHOICE_PRECISION)
#define CHOICES_RECIPE "default|literal|exact|"
#define CHOICES_ACTIVE_BY "rows|blocks|"
#define CHOICES_ACTIVE_ORDER "bottom-up|top-down|random|"
#define CHOICES_SCHEDULE "cosine|linear|constant|"
#define CHOICES_SPLIT "val|test|"

/* id, name, short name, kind, least, greatest, commands, traits, group, value's name (or choices), default, help.
 * A default that starts with "(" is only told: the option then counts as not given. NULL: nothing to tell. */
#define OPTION_LIST(X) \
    X(DATA, "data", 0, TEXT, 0, 0, RUNS | EVAL, SETTING, "Text", "FILE|DIR|GLOB", NULL, \
      "the text: a file, a pattern such as 'books/*.txt' (quoted), or a folder of text files") \
    X(VAL_FRACTION, "val-fraction", 0, REAL, 1e-6, 1, RUNS | EVAL, SETTING, "Text", "F", "(0.1)", \
      "share at the end of the text that is kept for validation; up to 0.5, for eval up to 1") \
    X(TEST_FRACTION, "test-fraction", 0, REAL, 0, 1, RUNS | EVAL, SETTING, "Text", "F", "(0)", \
      "share at the very end of the text, behind validation, kept for one test of the finished model") \
    X(ALSO, "also", 0, TEXT, 0, 0, RUNS, SETTING, "Text", "FILE|DIR|GLOB", NULL, \
      "second text, whose last --val-fraction is evaluated at the start and at the end: what is forgotten") \
    X(SPLIT, "split", 0, CHOICE, 0, 0, EVAL, PLAIN, "Text", CHOICES_SPLIT, "val", \
      "part of the text to evaluate; test is the last --test-fraction") \
    X(MODEL, "model", 'm', TEXT, 0, 0, EVAL | GENERATE, PLAIN, "Model", "RUN", NULL, \
      "run folder (newest checkpoint), checkpoint folder or model.safetensors") \
    X(FROM, "from", 0, TEXT, 0, 0, RUNS | INIT, SETTING, "Model", "RUN", NULL, \
      "go on with these weights: of a run folder (newest checkpoint), checkpoint folder or model.safetensors") \
    X(IN_PLACE, "in-place", 0, FLAG, 0, 0, TRAIN, SETTING, "Model", NULL, NULL, \
      "train the model of --from in its file: it streams, and what a phase has trained is written into it") \
    X(KEEP_BASE, "keep-base", 0, FLAG, 0, 0, TRAIN, SETTING, "Model", NULL, NULL, \
      "with --in-place: train a copy, RUN/model, and leave the model of --from as it is") \
    X(PRESET, "preset", 0, TEXT, 0, 0, SHAPED | BENCH, SETTING, "Model", "NAME", "(tiny)", \
      "shape by name, listed below; the options below override its parts") \
    X(LAYERS, "layers", 0, INT, 1, 4096, SHAPED | BENCH, SETTING, "Model", "N", "(preset)", "blocks") \
    X(DIM, "dim", 0, INT, 32, 1 << 20, SHAPED | BENCH, SETTING, "Model", "N", "(preset)", "width, a multiple of 32") \
    X(HEADS, "heads", 0, INT, 1, 1024, SHAPED | BENCH, SETTING, "Model", "N", "(preset)", "query heads") \
    X(KV_HEADS, "kv-heads", 0, INT, 0, 1024, SHAPED | BENCH, SETTING, "Model", "N", "(preset)", \
      "key and value heads, a divisor of heads") \
    X(HEAD_DIM, "head-dim", 0, INT, 0, 512, SHAPED | BENCH, SETTING, "Model", "N", "(dim / heads)", "width of a head, even") \
    X(FFN, "ffn", 0, INT, 0, 1 << 22, SHAPED | BENCH, SETTING, "Model", "N", "(preset)", "width inside the feed-forward part") \
    X(CTX, "ctx", 'c', INT, 2, 1 << 20, SHAPED | BENCH, SETTING, "Model", "N", "(preset)", "tokens of a training window") \
    X(QK_NORM, "qk-norm", 0, FLAG, 0, 0, SHAPED, SETTING, "Model", NULL, NULL, "RMSNorm on queries and keys, per head") \
    X(NO_SUB_NORM, "no-sub-norm", 0, FLAG, 0, 0, SHAPED, SETTING, "Model", NULL, NULL, \
      "no RMSNorm before the attention-output and down products") \
    X(TIED, "tied", 0, FLAG, 0, 0, SHAPED, SETTING, "Model", NULL, NULL, "the embedding is the output layer as well") \
    X(NOMINAL, "weights", 0, AMOUNT, 1024, 9e18, PLAN, PLAIN, "Model", "N", "(as the preset is called)", \
      "weights for the round figures beside those of the shape, such as 90B") \
    X(OPTIMIZER, "optimizer", 0, CHOICE, 0, 0, TRAIN, SETTING, "Training", CHOICES_OPTIMIZER, "fsm", \
      "what trains the matrices: a state machine on 1-bit weights, or a baseline") \
    X(FSM_STATE, "fsm-state", 0, CHOICE, 0, 0, TRAIN | PLAN, SETTING, "Training", CHOICES_FSM, "c4", \
      "bits a weight, its sign included: 3 (t2: ternary; c2: 4 levels), 5 or 9") \
    X(FSM_RECIPE, "fsm-recipe", 0, CHOICE, 0, 0, TRAIN, SETTING, "Training", CHOICES_RECIPE, "default", \
      "literal: as first published; exact: same-step quantile, for tests") \
    X(RANK, "rank", 0, INT, 1, 1024, RUNS, SETTING, "Training", "N", "(8)", "rank of the adapters (lora)") \
    X(PRECISION, "precision", 0, CHOICE, 0, 0, TRAIN | EVAL | GENERATE | PLAN, SETTING, "Training", CHOICES_PRECISION, "f32", \
      "arithmetic of the products with 1-bit weights: f32, or operands in int8 or bf16") \
    X(STEPS, "steps", 0, INT, 1, INT64_C(1) << 31, RUNS | PLAN, SETTING, "Training", "N", "1000", \
      "length of the run; schedules end there") \
    X(BATCH, "batch", 'b', INT, 1, 1 << 20, RUNS | BENCH | PLAN, SETTING, "Training", "N", "32", "windows per step") \
    X(SEED, "seed", 's', INT, 0, INT64_MAX, TRAIN, SETTING, "Training", "N", "1", "of all random numbers") \
    X(INIT_SEED, "seed", 's', INT, 0, INT64_MAX, INIT, PLAIN, "Model", "N", "1", "of the random weights") \
    X(LR, "lr", 0, REAL, 1e-12, 1e30, TRAIN, SETTING, "Training", "R", "(searched)", "rate of the float parameters") \
    X(MATRIX_LR, "matrix-lr", 0, REAL, 1e-12, 1e30, TRAIN, SETTING, "Training", "R", "(lr; bop: 0.1)", \
      "rate of latents (ste), dense weights (adamw), adapters (lora), the average (bop)") \
    X(SCALE_LR, "scale-lr", 0, REAL, 1e-12, 1e30, TRAIN, SETTING, "Training", "R", "(searched)", "rate of the row scales") \
    X(WARMUP, "warmup", 0, INT, 0, INT64_C(1) << 31, RUNS, SETTING, "Training", "N", "(min(50, steps/10))", \
      "steps in which the rate rises") \
    X(SCHEDULE, "schedule", 0, CHOICE, 0, 0, RUNS, SETTING, "Training", CHOICES_SCHEDULE, "cosine", \
      "of the rates after the warm-up") \
    X(FINAL_LR, "final-lr", 0, REAL, 0, 1, RUNS, SETTING, "Training", "F", "(0.05)", "share of the rate at the end") \
    X(CLIP, "clip", 0, REAL, 0, 1e30, RUNS, SETTING, "Training", "R", "0", \
      "limit of the gradient norm of the float parameters; 0 is off") \
    X(WEIGHT_DECAY, "weight-decay", 0, REAL, 0, 1, RUNS, SETTING, "Training", "R", "0", "of matrices in ste and adamw") \
    X(DENSITY_START, "density-start", 0, REAL, 1e-5, 1, RUNS, SETTING, "Training", "F", "(0.8)", \
      "share of weights pulsed at the start (fsm)") \
    X(DENSITY_END, "density-end", 0, REAL, 1e-5, 1, RUNS, SETTING, "Training", "F", "(0.02)", "and at the end") \
    X(ANCHOR, "anchor", 0, REAL, 0, 1, RUNS, SETTING, "Training", "F", "(0.2 with --from, else 0)", \
      "what rests returns to its first sign, at this share of density; not c8") \
    X(ACTIVE_PARTS, "active-parts", 0, INT, 1, 1024, RUNS | PLAN, SETTING, "Training", "N", "(1)", \
      "cut the rows of all matrices into N parts; one at a time has a state and trains (fsm)") \
    X(ACTIVE_PARAMS, "active-params", 0, AMOUNT, 1024, 9e18, TRAIN | PLAN, SETTING, "Training", "N", "(all)", \
      "the same by size: at most so many weights at a time, such as 1.5B") \
    X(SWEEPS, "sweeps", 0, INT, 1, 1 << 20, RUNS | PLAN, SETTING, "Training", "N", "(up to 4)", \
      "how often every part has its turn, each time colder") \
    X(ACTIVE_BY, "active-by", 0, CHOICE, 0, 0, RUNS | PLAN, SETTING, "Training", CHOICES_ACTIVE_BY, "(rows)", \
      "a part is a share of the rows of every matrix, or a stretch of the blocks") \
    X(ACTIVE_ORDER, "active-order", 0, CHOICE, 0, 0, RUNS, SETTING, "Training", CHOICES_ACTIVE_ORDER, "(bottom-up)", \
      "of the parts in a sweep") \
    X(FULL_BACKWARD, "full-backward", 0, FLAG, 0, 0, TRAIN, SETTING, "Training", NULL, NULL, \
      "always go back to block 0, so that norms and embedding below the active rows train as well; slower") \
    X(MICRO_BATCH, "micro-batch", 0, INT, 0, 1 << 20, RUNS | PLAN, SETTING, "Memory", "N", "0", \
      "windows at a time, 0 is all; less memory, the same result") \
    X(RECOMPUTE, "recompute", 0, FLAG, 0, 0, RUNS | PLAN, SETTING, "Memory", NULL, NULL, \
      "keep block inputs only; less memory, slower, the same result") \
    X(RAM_BUDGET, "ram-budget", 0, AMOUNT, 1048576, 9e18, TRAIN | PLAN, PLAIN, "Memory", "SIZE", "(no limit)", \
      "host memory that may be used, such as 12GB; the same result") \
    X(DEVICE_BUDGET, "device-budget", 0, AMOUNT, 1048576, 9e18, TRAIN | PLAN, PLAIN, "Memory", "SIZE", "(no limit)", \
      "and device memory; the CPU's is RAM too, but counted apart") \
    X(SLOTS, "slots", 0, INT, 2, 64, TRAIN | PLAN, PLAIN, "Memory", "N", "3", \
      "blocks of a model trained --in-place that are on the device at a time, the same result") \
    X(FIT, "fit", 0, FLAG, 0, 0, TRAIN, PLAIN, "Memory", NULL, NULL, \
      "where the run does not fit, choose slots, recompute and micro-batch so that it does; the same result") \
    X(ARMS, "arms", 0, TEXT, 0, 0, COMPARE, SETTING, "Comparison", "LIST", "fsm:c4,ste,frozen,adamw", \
      "what to compare: OPTIMIZER[:STATE[-PARTS[xSWEEPS]][:RECIPE]][/PRECISION][@LR], commas between") \
    X(SEEDS, "seeds", 0, INT, 1, 1000, COMPARE, SETTING, "Comparison", "N", "3", "runs of each arm: seeds 1 to N") \
    X(SEARCH_LR, "search-lr", 0, FLAG, 0, 0, COMPARE, SETTING, "Comparison", NULL, NULL, \
      "first find the best --lr of each arm, with one seed and steps of a factor of two") \
    X(OUT, "out", 'o', TEXT, 0, 0, TRAIN, PLAIN, "Run", "RUN", NULL, "run folder: settings, metrics, checkpoints") \
    X(OUT_FOLDER, "out", 'o', TEXT, 0, 0, COMPARE, PLAIN, "Run", "DIR", NULL, \
      "folder of the comparison: one run folder per arm and seed, compare.json, compare.md, report.html") \
    X(OUT_MODEL, "out", 'o', TEXT, 0, 0, INIT, PLAIN, "Model", "MODEL", NULL, "folder of the new model") \
    X(OUT_PAGE, "out", 'o', TEXT, 0, 0, REPORT, PLAIN, "Page", "FILE", "report.html", "the page to write") \
    X(BITMAP, "tensor", 0, TEXT, 0, 0, REPORT, PLAIN, "Page", "NAME", "(the first matrix)", \
      "1-bit tensor to show before and after, a name of qsbits inspect") \
    X(CONFIG, "config", 0, TEXT, 0, 0, RUNS, PLAIN, "Run", "FILE", NULL, \
      "JSON file of settings with the names of these options, such as a run's config.json; options win") \
    X(DRY_RUN, "dry-run", 0, FLAG, 0, 0, TRAIN, PLAIN, "Run", NULL, NULL, \
      "show settings, sizes, memory, schedule and time, write nothing") \
    X(RESUME, "resume", 0, FLAG, 0, 0, TRAIN, PLAIN, "Run", NULL, NULL, \
      "continue the newest valid checkpoint of RUN; without one start at step 0") \
    X(EVAL_EVERY, "eval-every", 0, INT, 0, INT64_C(1) << 31, RUNS, SETTING, "Run", "N", "(steps / 10, at least 20)", \
      "steps between validations, 0 is never") \
    X(SAVE_EVERY, "save-every", 0, TEXT, 0, 0, RUNS, SETTING, "Run", "N|Nm", "(steps / 10, at least 20)", \
      "steps, or minutes as in 30m, between checkpoints; 0 is at the end only") \
    X(EVAL_WINDOWS, "eval-windows", 0, INT, 0, INT64_MAX, RUNS, SETTING, "Run", "N", "64", \
      "windows of a validation on the way, 0 is all") \
    X(FINAL_WINDOWS, "final-windows", 0, INT, 0, INT64_MAX, RUNS, SETTING, "Run", "N", "0", \
      "windows of the first and the last validation and of --also, 0 is all") \
    X(KEEP, "keep", 0, INT, 1, 1000, RUNS, SETTING, "Run", "N", "2", "newest checkpoints that stay") \
    X(KEEP_BEST, "keep-best", 0, FLAG, 0, 0, RUNS, SETTING, "Run", NULL, NULL, \
      "save whenever the validation is the best so far; RUN/best names that checkpoint, which stays") \
    X(PATIENCE, "patience", 0, INT, 0, INT64_C(1) << 31, RUNS, SETTING, "Run", "N", "0", \
      "stop after N validations without a better one, 0 is never") \
    X(HEALTH, "health", 0, INT, 0, INT64_C(1) << 20, RUNS, SETTING, "Run", "N", "(steps/10, 20 to 100)", \
      "steps over which the health of weights is measured, 0 is never; the same result") \
    X(LOG_EVERY, "log-every", 0, INT, 0, INT64_C(1) << 31, RUNS, SETTING, "Run", "N", "1", \
      "steps between lines of metrics.jsonl and events, 0 is validations and health only") \
    X(NO_EVENTS, "no-events", 0, FLAG, 0, 0, RUNS, SETTING, "Run", NULL, NULL, "no TensorBoard event file in RUN") \
    X(TIME_LIMIT, "time-limit", 0, REAL, 0, 1e9, RUNS, PLAIN, "Run", "SECONDS", "(none)", \
      "stop, save and report once this time has passed") \
    X(WINDOWS, "windows", 0, INT, 0, INT64_MAX, EVAL, PLAIN, "Model", "N", "0", "windows to use, 0 is all") \
    X(PROMPT, "prompt", 'p', TEXT, 0, 0, GENERATE, PLAIN, "Generation", "TEXT", "(a newline)", "what the text starts with") \
    X(COUNT, "n", 'n', INT, 1, INT64_C(1) << 31, GENERATE, PLAIN, "Generation", "N", "256", "tokens (bytes) to write") \
    X(TEMP, "temp", 0, REAL, 0, 100, GENERATE, PLAIN, "Generation", "R", "0.8", "temperature; 0 takes the likeliest token") \
    X(TOP_K, "top-k", 0, INT, 0, 1 << 24, GENERATE, PLAIN, "Generation", "N", "40", "draw from the N likeliest, 0 is off") \
    X(TOP_P, "top-p", 0, REAL, 1e-6, 1, GENERATE, PLAIN, "Generation", "F", "0.95", \
      "draw from the likeliest that make up this share, 1 is off") \
    X(DRAW_SEED, "seed", 's', INT, 0, INT64_MAX, GENERATE, PLAIN, "Generation", "N", "1", "of the draws") \
    X(CONTEXT, "ctx", 'c', INT, 2, 1 << 20, GENERATE, PLAIN, "Generation", "N", "(the model's)", \
      "tokens the model can look back on") \
    X(TENSOR, "tensor", 0, TEXT, 0, 0, INSPECT, PLAIN, "Selection", "NAME", "(all)", "show values of this tensor") \
    X(WORDS, "words", 0, INT, 0, INT64_MAX, INSPECT, PLAIN, "Selection", "N", "8", "32-bit words to show, 0 is all") \
    X(VERIFY, "verify", 0, FLAG, 0, 0, INSPECT, PLAIN, "Selection", NULL, NULL, \
      "read everything and compare all checksums") \
    X(SHAPE, "shape", 0, TEXT, 0, 0, BENCH, PLAIN, "Measurement", "M,N,K", "(1 to 512 x 4096 x 4096 and 14336)", \
      "only products, at this shape") \
    X(STEP, "step", 0, FLAG, 0, 0, BENCH, PLAIN, "Measurement", NULL, NULL, \
      "only a training step, of the model given above") \
    X(GENERATION, "generate", 0, FLAG, 0, 0, BENCH, PLAIN, "Measurement", NULL, NULL, \
      "only generation, one token at a time, with the model given above") \
    X(CLASS, "precision", 0, CHOICE, 0, 0, BENCH, PLAIN, "Measurement", CHOICES_PRECISION, "(all)", \
      "arithmetic of the products with 1-bit weights") \
    X(LEVELS, "levels", 0, FLAG, 0, 0, BENCH, PLAIN, "Measurement", NULL, NULL, \
      "every kernel level of this machine side by side (products)") \
    X(PEER, "peer", 0, TEXT, 0, 0, BENCH, PLAIN, "Measurement", "FILE.so,...", NULL, \
      "foreign products to time beside ours, see qsbits/peer.h") \
    X(COMPARE, "compare", 0, TEXT, 0, 0, BENCH, PLAIN, "Measurement", "OLD.json", NULL, \
      "show what became slower or faster since an earlier --json; exit code 1 if slower") \
    X(SECONDS, "seconds", 0, REAL, 0.001, 3600, BENCH, PLAIN, "Measurement", "S", "0.3", "time to spend on each row") \
    X(SELF_TEST, "self-test", 0, FLAG, 0, 0, INFO, PLAIN, "Check", NULL, NULL, \
      "run every operation on the kernel level in use and on the scalar one and compare the results") \
    X(THREADS, "threads", 't', INT, 0, 1024, COMPUTE | INIT, PLAIN, "Machine", "N", "0", \
      "worker threads, 0 is all cores; the same result") \
    X(CPU, "cpu", 0, TEXT, 0, 0, COMPUTE, PLAIN, "Machine", "LEVEL", "(best)", \
      "kernel level, see qsbits info; the same result") \
    X(DEVICE, "device", 0, TEXT, 0, 0, COMPUTE, PLAIN, "Machine", "NAME", "(cpu)", \
      "backend: a name of qsbits info or the path of a plugin") \
    X(DISK_RATE, "disk", 0, AMOUNT, 1000, 9e18, PLAN, PLAIN, "Machine", "RATE", "(measured on MODEL)", \
      "bytes a second from disk, such as 3GB/s") \
    X(LINK_RATE, "link", 0, AMOUNT, 1000, 9e18, PLAN, PLAIN, "Machine", "RATE", "(measured)", \
      "bytes a second from RAM to the device, such as 32GB/s") \
    X(MEMORY_RATE, "memory", 0, AMOUNT, 1000, 9e18, PLAN, PLAIN, "Machine", "RATE", "(measured)", \
      "bytes a second that all cores read from memory") \
    X(COMPUTE_RATE, "compute", 0, AMOUNT, 1000, 9e18, PLAN, PLAIN, "Machine", "RATE", "(measured)", \
      "operations a second of products, such as 500GOP/s; a weight and a token are 2") \
    X(JSON, "json", 0, FLAG, 0, 0, RESULTS, PLAIN, "Output", NULL, NULL, "one JSON object on standard output") \
    X(HELP, "help", 'h', FLAG, 0, 0, EVERY, PLAIN, "Output", NULL, NULL, "this page")

typedef enum option_id {
#define OPTION_ENUM(id, name, letter, kind, least, most, commands, traits, group, value, preset, help) OPT_##id,
    OPTION_LIST(OPTION_ENUM)
#undef OPTION_ENUM
    OPTIONS
} option_id;

typedef struct option_value {
    bool given;        /* on the command line or by config.json, not by default */
    const char *text;  /* as written; NULL where nothing was given and there is no default; borrowed */
    int64_t integer;   /* INT, AMOUNT; index of CHOICE; 1 for a FLAG that is given */
    double real;       /* REAL */
} option_value;

/* Everything a command was told. Strings are borrowed from argv. */
typedef struct options {
    const struct command *command;
    option_value value[OPTIONS];
    const char *const *operands;  /* arguments without a name, in argv */
    int operand_count;
} options;

/* A command of qsbits: one file cmd_<name>.c each. */
typedef struct command {
    const char *name;
    int bit;
    const char *operand;     /* name of its argument without a flag, NULL if it takes none; "..." at the end: several */
    const char *required;    /* names of its required options, as shown in the usage line */
    const char *summary;     /* one line */
    const char *about;       /* one paragraph */
    const char *examples[2];
    const int *exit_codes;   /* those it can return, ends with 0 */
    int (*run)(const options *o);
    void (*more_help)(FILE *out);  /* may be NULL */
} command;

/* Reads argv[0..argc-1], the arguments behind the command's name. Returns 0, or 64 after a message. Options that are
 * not given have their defaults. */
int options_parse(options *o, const command *which, int argc, char **argv);

/* Sets an option from a text, as if it stood on the command line. where names the origin in messages ("--steps").
 * The text is borrowed. Returns false after a message. */
bool options_set(options *o, option_id id, const char *where, const char *text);

/* A line of OPTION_LIST, for what is made of it: help, manual, completions. */
typedef struct option_row {
    const char *name;          /* without dashes */
    char letter;               /* 0: none */
    option_kind kind;
    double least, greatest;
    int commands, traits;
    const char *group, *value, *preset, *help;
} option_row;
const option_row *options_row(option_id id);

/* The options of a command in the order of its help page, group after group; returns how many. */
int options_listed(const command *which, option_id ids[OPTIONS]);

/* What help shows as the value of an option ("N", "t2|c2|c4|c8", "" for a FLAG) and as its default ("" if there is nothing to
 * tell), in out; returns out. */
enum { OPTION_TEXT = 64 };
char *options_value_text(const option_row *row, char out[OPTION_TEXT]);
char *options_default_text(const option_row *row, char out[OPTION_TEXT]);

/* Whether an option belongs to a command, and whether it is one of its settings. */
bool options_of(option_id id, const command *which);
bool options_is_setting(option_id id, const command *which);

/* The choice with an index as text ("c4"); static storage. */
const char *options_choice_text(option_id id, int64_t index);

/* Writes the options of a command, grouped. */
void options_help(FILE *out, const command *which);

/* The word of candidates (NULL at the end) that is nearest to word, NULL if none is near. */
const char *options_nearest(const char *word, const char *const *candidates);

#endif
