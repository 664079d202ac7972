// What loops in C++ make of the orthogonal update: a yardstick for the CPU, compiled by the benchmark and by nothing else.
// Vectors lie in one piece, everything is float32, the strength is 1.
#include <ATen/Parallel.h>
#include <torch/extension.h>

#include <algorithm>
#include <vector>

namespace {
// Vectors that one task takes, so that a task is worth its start.
int64_t grain(int64_t length) { return std::max<int64_t>(1, 32768 / length); }
}  // namespace

std::vector<at::Tensor> forward(const at::Tensor& x, const at::Tensor& update, int64_t length, double eps) {
  const int64_t vectors = x.numel() / length;
  at::Tensor y = at::empty_like(x), coefficients = at::empty({vectors}, x.options());
  const float *xs = x.const_data_ptr<float>(), *us = update.const_data_ptr<float>();
  float *ys = y.data_ptr<float>(), *ss = coefficients.data_ptr<float>();
  at::parallel_for(0, vectors, grain(length), [&](int64_t begin, int64_t end) {
    for (int64_t vector = begin; vector < end; ++vector) {
      const float *xv = xs + vector * length, *uv = us + vector * length;
      float dot = 0, square = 0;
      for (int64_t i = 0; i < length; ++i) {
        dot += xv[i] * uv[i];
        square += xv[i] * xv[i];
      }
      const float s = ss[vector] = dot / (square + static_cast<float>(eps));
      for (int64_t i = 0; i < length; ++i) ys[vector * length + i] = uv[i] + (1 - s) * xv[i];
    }
  });
  return {y, coefficients};
}

std::vector<at::Tensor> backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& y,
                                 const at::Tensor& coefficients, int64_t length, double eps) {
  const int64_t vectors = x.numel() / length;
  at::Tensor grad_x = at::empty_like(x), grad_update = at::empty_like(x);
  const float *gs = grad.const_data_ptr<float>(), *xs = x.const_data_ptr<float>(), *ys = y.const_data_ptr<float>();
  const float* ss = coefficients.const_data_ptr<float>();
  float *dxs = grad_x.data_ptr<float>(), *dus = grad_update.data_ptr<float>();
  at::parallel_for(0, vectors, grain(length), [&](int64_t begin, int64_t end) {
    for (int64_t vector = begin; vector < end; ++vector) {
      const int64_t first = vector * length;
      float pull = 0, square = 0;
      for (int64_t i = first; i < first + length; ++i) {
        pull += xs[i] * gs[i];
        square += xs[i] * xs[i];
      }
      const float a = pull / (square + static_cast<float>(eps)), s = ss[vector];
      for (int64_t i = first; i < first + length; ++i) {
        dus[i] = gs[i] - a * xs[i];
        dxs[i] = (1 - s) * gs[i] - a * (ys[i] - (1 + s) * xs[i]);
      }
    }
  });
  return {grad_x, grad_update};
}
