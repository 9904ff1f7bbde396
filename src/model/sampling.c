/* sampling.c - drawing a token from logits: temperature, top-k, top-p (Holtzman et al.), all in defined double arithmetic. */
#include <stdlib.h>
#include "core/detmath.h"
#include "core/internal.h"
#include "qsbits/model.h"
#include "qsbits/random.h"

typedef struct candidate {
    double weight;
    int32_t token;
} candidate;

void qs_sampling_default(qs_sampling *sampling)
{
    *sampling = (qs_sampling){.temperature = 0.8, .top_k = 40, .top_p = 0.95, .seed = 0};
}

/* Heavier first; equal weights: the smaller token first. */
static int compare(const void *pa, const void *pb)
{
    const candidate *a = pa, *b = pb;
    if (a->weight != b->weight)
        return a->weight > b->weight ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

static qs_status check(const float *logits, int64_t vocab, const qs_sampling *s)
{
    qs_status status = QS_OK;
    if (!(s->temperature >= 0.0 && s->temperature <= 100.0))
        QS_FAIL(QS_ERR_ARG, "temperature is %g; it must lie in 0..100", s->temperature);
    if (s->top_k < 0)
        QS_FAIL(QS_ERR_ARG, "top_k is %lld; it must be 0 (off) or more", (long long)s->top_k);
    if (!(s->top_p > 0.0 && s->top_p <= 1.0))
        QS_FAIL(QS_ERR_ARG, "top_p is %g; it must lie in (0, 1]", s->top_p);
    if (vocab < 1 || vocab > INT32_MAX)
        QS_FAIL(QS_ERR_ARG, "a vocabulary of %lld symbols cannot be sampled", (long long)vocab);
    for (int64_t i = 0; i < vocab; i++)
        if (!(logits[i] - logits[i] == 0.0f))
            QS_FAIL(QS_ERR_NONFINITE, "the logit of token %lld is not finite", (long long)i);
fail:
    return status;
}

/* How many of the sorted candidates stay: top-k, then the fewest whose share reaches top_p. *total becomes their weight. */
static int64_t truncate(const candidate *c, int64_t n, const qs_sampling *s, double *total)
{
    const int64_t k = s->top_k > 0 ? qsi_min(s->top_k, n) : n;
    double all = 0.0, sum = 0.0;
    for (int64_t i = 0; i < k; i++)
        all += c[i].weight;
    for (int64_t i = 0; i < k; i++) {
        sum += c[i].weight;
        if (sum >= s->top_p * all) {
            *total = sum;
            return i + 1;
        }
    }
    *total = sum;
    return k;
}

qs_status qs_sample(const float *logits, int64_t vocab, const qs_sampling *sampling, uint32_t index, int32_t *token)
{
    qs_status status = QS_OK;
    candidate *c = NULL;
    uint32_t random[4];
    int64_t best = 0;
    QS_TRY(check(logits, vocab, sampling));
    for (int64_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    if (sampling->temperature == 0.0) {
        *token = (int32_t)best;
        return QS_OK;
    }
    c = qsi_alloc_array(NULL, QS_MEMORY_OTHER, vocab, sizeof *c);
    if (!c) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    for (int64_t i = 0; i < vocab; i++) {
        c[i].weight = qsi_exp(((double)logits[i] - (double)logits[best]) / sampling->temperature);
        c[i].token = (int32_t)i;
    }
    qsort(c, (size_t)vocab, sizeof *c, compare);
    double total = 0.0;
    const int64_t n = truncate(c, vocab, sampling, &total);
    qs_philox(sampling->seed, 0, QS_RANDOM_SAMPLING, 0, 0, index, random);
    double left = ((double)random[0] + 0.5) / 4294967296.0 * total;
    int64_t choice = 0;
    while (choice + 1 < n && left >= c[choice].weight)
        left -= c[choice++].weight;
    *token = c[choice].token;
fail:
    qsi_free(c);
    return status;
}
