/* A vector of floats on AVX-512 (F, VL, DQ, BW): what kernels_simd.h and quant_strips.h are written in. V is how a function of one instruction is declared. */
#ifndef GENLOOP_TENSOR_VECTORS_AVX512_H
#define GENLOOP_TENSOR_VECTORS_AVX512_H

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

#endif
