// Between the runtime's views and libtorch's tensors.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <span>
#include <string>
#include <vector>

#include "../engine.hpp"
#include "mammoth/error.hpp"

namespace mammoth::detail {

/// A CPU tensor over memory of the caller, which must outlive it.
at::Tensor to_tensor(const TensorView& view);

/// Copies the tensors into `outputs`. Throws Error (backend) if number or shapes differ.
void copy_outputs(const std::vector<at::Tensor>& tensors, std::span<const OutputView> outputs);

/// Calls `function` and turns what libtorch throws into Error, with `code` and `what` before it.
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
