/* A vector of floats on AVX2 with FMA: what kernels_simd.h and quant_strips.h are written in. V is how a function of one instruction is declared. */
#ifndef GENLOOP_TENSOR_VECTORS_AVX2_H
#define GENLOOP_TENSOR_VECTORS_AVX2_H

#include <immintrin.h>
#include <stddef.h>

enum { W = 8 };
typedef __m256 vf;
typedef __m256 vm;
typedef __m256d vd;
#define V static inline __attribute__((always_inline))
V __m256i first_lanes(size_t k) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)k), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
V vf v_load_all(const float *p) { return _mm256_loadu_ps(p); }
V void v_store_all(float *p, vf v) { _mm256_storeu_ps(p, v); }
V vf v_load_some(const float *p, size_t k) { return _mm256_maskload_ps(p, first_lanes(k)); }
V void v_store_some(float *p, vf v, size_t k) { _mm256_maskstore_ps(p, first_lanes(k), v); }
V vf v_set(float x) { return _mm256_set1_ps(x); }
V vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
V vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
V vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
V vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
V vf v_sqrt(vf a) { return _mm256_sqrt_ps(a); }
V vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
V vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
V vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
V vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
V vm v_gt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
V vf v_select(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
V vf v_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* In two halves: 2^128 is no float. */
V vf v_scale2(vf x, vf n) {
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half);
    __m256i bias = _mm256_set1_epi32(127);
    x = _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}
V float v_sum(vf a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
V float v_most(vf a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
V vd v_zero_f64(void) { return _mm256_setzero_pd(); }
V void v_square_f64(vf a, vd *s0, vd *s1) {
    vd low = _mm256_cvtps_pd(_mm256_castps256_ps128(a)), high = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
    *s0 = _mm256_fmadd_pd(low, low, *s0);
    *s1 = _mm256_fmadd_pd(high, high, *s1);
}
V double v_sum_f64(vd s0, vd s1) {
    vd s = _mm256_add_pd(s0, s1);
    __m128d t = _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));
    return _mm_cvtsd_f64(_mm_add_sd(t, _mm_unpackhi_pd(t, t)));
}

#endif
