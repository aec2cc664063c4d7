/* The primitives of kernels_simd.h on AVX-512 (F, VL, DQ, BW). */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stddef.h>

enum { W = 16 };
typedef __m512 vf;
typedef __mmask16 vm;
typedef __m512d vd;
#define V static inline __attribute__((always_inline))
V vf v_load_all(const float *p) { return _mm512_loadu_ps(p); }
V void v_store_all(float *p, vf v) { _mm512_storeu_ps(p, v); }
V vf v_load_some(const float *p, size_t k) { return _mm512_maskz_loadu_ps((vm)((1u << k) - 1), p); }
V void v_store_some(float *p, vf v, size_t k) { _mm512_mask_storeu_ps(p, (vm)((1u << k) - 1), v); }
V vf v_set(float x) { return _mm512_set1_ps(x); }
V vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
V vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
V vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
V vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
V vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
V vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
V vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
V vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
V vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
V vm v_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
V vf v_select(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
V vf v_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
V vf v_scale2(vf x, vf n) { return _mm512_scalef_ps(x, n); }
V float v_sum(vf a) { return _mm512_reduce_add_ps(a); }
V float v_most(vf a) { return _mm512_reduce_max_ps(a); }
V vd v_zero_f64(void) { return _mm512_setzero_pd(); }
V void v_square_f64(vf a, vd *s0, vd *s1) {
    vd low = _mm512_cvtps_pd(_mm512_castps512_ps256(a)), high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    *s0 = _mm512_fmadd_pd(low, low, *s0);
    *s1 = _mm512_fmadd_pd(high, high, *s1);
}
V double v_sum_f64(vd s0, vd s1) { return _mm512_reduce_add_pd(_mm512_add_pd(s0, s1)); }

/* 16 by 16: pairs, quadruples, then 128-bit lanes. */
V void pack_square(const float *from, size_t stride, float *to, size_t to_stride) {
    __m512 r[16], t[16];
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(from + i * stride);
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) { /* r[4i + j]: in each lane l, column 4l + j of rows 4i .. 4i + 3 */
        r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[4 * i]), _mm512_castps_pd(t[4 * i + 2])));
        r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[4 * i]), _mm512_castps_pd(t[4 * i + 2])));
        r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[4 * i + 1]), _mm512_castps_pd(t[4 * i + 3])));
        r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[4 * i + 1]), _mm512_castps_pd(t[4 * i + 3])));
    }
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        __m512 a = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88);
        __m512 c = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xdd), d = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xdd);
        _mm512_storeu_ps(to + j * to_stride, _mm512_shuffle_f32x4(a, b, 0x88));
        _mm512_storeu_ps(to + (4 + j) * to_stride, _mm512_shuffle_f32x4(c, d, 0x88));
        _mm512_storeu_ps(to + (8 + j) * to_stride, _mm512_shuffle_f32x4(a, b, 0xdd));
        _mm512_storeu_ps(to + (12 + j) * to_stride, _mm512_shuffle_f32x4(c, d, 0xdd));
    }
}

#define MR 12 /* 24 of 32 registers hold C */
#define ISA_NAME "avx512"
#define ISA_TABLE kernels_avx512
#include "tensor/kernels_simd.h"
#else
typedef int kernels_avx512_nothing;
#endif
