// Conversions between the runtime's views and libtorch's tensors.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <span>
#include <string>
#include <vector>

#include "../engine.hpp"
#include "mammoth/error.hpp"

namespace mammoth::detail {

/// Wraps memory of the caller, which must outlive the result, in a CPU tensor.
at::Tensor to_tensor(const TensorView& view);

/// Copies the tensors into `outputs`. Throws Error (backend) if number or shapes differ.
void copy_outputs(const std::vector<at::Tensor>& tensors, std::span<const OutputView> outputs);

/// Calls `function`, and converts exceptions of libtorch to Error with `code`, prefixed by `what`.
template <class Function>
auto translate_errors(ErrorCode code, const std::string& what, Function function) {
    try {
        return function();
    } catch (const Error&) {
        throw;
    } catch (const c10::Error& error) {
        throw Error(code, what + ": " + error.what_without_backtrace());
    } catch (const std::exception& error) {
        throw Error(code, what + ": " + error.what());
    }
}

std::unique_ptr<Engine> make_aoti_engine();
std::unique_ptr<Engine> make_torchscript_engine();

}  // namespace mammoth::detail
