// ONNX Runtime's C API without its headers, which no package on PyPI contains.
//
// The API is a table of functions that later versions only append to, so the index and signature of
// a function never change. The functions that the runtime calls are listed here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>

#include "shared_library.hpp"

namespace mammoth::detail::ort {

struct Allocator;
struct Env;
struct MemoryInfo;
struct Session;
struct SessionOptions;
struct Status;
struct TensorInfo;
struct TypeInfo;
struct Value;

/// The function at index `Index` of the table.
template <std::size_t Index, class Signature>
struct Slot {};

inline constexpr Slot<2, const char*(const Status*)> get_error_message;
inline constexpr Slot<3, Status*(int, const char*, Env**)> create_env;
inline constexpr Slot<8, Status*(const Env*, const void*, std::size_t, const SessionOptions*,
                                 Session**)>
    create_session_from_array;
inline constexpr Slot<9, Status*(Session*, const void*, const char* const*, const Value* const*,
                                 std::size_t, const char* const*, std::size_t, Value**)>
    run;
inline constexpr Slot<10, Status*(SessionOptions**)> create_session_options;
inline constexpr Slot<24, Status*(SessionOptions*, int)> set_intra_op_num_threads;
inline constexpr Slot<30, Status*(const Session*, std::size_t*)> get_input_count;
inline constexpr Slot<31, Status*(const Session*, std::size_t*)> get_output_count;
inline constexpr Slot<33, Status*(const Session*, std::size_t, TypeInfo**)> get_input_type;
inline constexpr Slot<34, Status*(const Session*, std::size_t, TypeInfo**)> get_output_type;
inline constexpr Slot<36, Status*(const Session*, std::size_t, Allocator*, char**)> get_input_name;
inline constexpr Slot<37, Status*(const Session*, std::size_t, Allocator*, char**)> get_output_name;
inline constexpr Slot<49, Status*(const MemoryInfo*, void*, std::size_t, const std::int64_t*,
                                  std::size_t, int, Value**)>
    create_tensor_with_data;
inline constexpr Slot<55, Status*(const TypeInfo*, const TensorInfo**)> cast_to_tensor_info;
inline constexpr Slot<60, Status*(const TensorInfo*, int*)> get_element_type;
inline constexpr Slot<61, Status*(const TensorInfo*, std::size_t*)> get_dimensions_count;
inline constexpr Slot<62, Status*(const TensorInfo*, std::int64_t*, std::size_t)> get_dimensions;
inline constexpr Slot<69, Status*(int, int, MemoryInfo**)> create_cpu_memory_info;
inline constexpr Slot<76, Status*(Allocator*, void*)> allocator_free;
inline constexpr Slot<78, Status*(Allocator**)> get_default_allocator;
inline constexpr Slot<92, void(Env*)> release_env;
inline constexpr Slot<93, void(Status*)> release_status;
inline constexpr Slot<94, void(MemoryInfo*)> release_memory_info;
inline constexpr Slot<95, void(Session*)> release_session;
inline constexpr Slot<96, void(Value*)> release_value;
inline constexpr Slot<98, void(TypeInfo*)> release_type_info;
inline constexpr Slot<100, void(SessionOptions*)> release_session_options;

inline constexpr int log_fatal_only = 4;  // errors are returned as statuses
inline constexpr int element_float = 1;
inline constexpr int element_uint8 = 2;
inline constexpr int device_allocator = 0;
inline constexpr int memory_default = 0;

/// An object of ONNX Runtime and the function that releases it.
template <class Object>
using Handle = std::unique_ptr<Object, void (*)(Object*)>;

class Api {
  public:
    /// Gets the API table of the library. Throws Error (backend) if the library is too old.
    explicit Api(const SharedLibrary& library);

    [[nodiscard]] const std::string& version() const noexcept { return version_; }

    /// Calls a function of the table. If the function returns a status of failure, throws Error
    /// (backend) with its message.
    template <std::size_t Index, class Result, class... Parameters>
    auto call(Slot<Index, Result(Parameters...)> slot,
              std::type_identity_t<Parameters>... arguments) const {
        if constexpr (std::is_same_v<Result, Status*>)
            check(function(slot)(arguments...));
        else
            return function(slot)(arguments...);
    }

    /// Creates an object with a function whose last argument is a pointer to the result.
    template <class Object, std::size_t Index, class... Parameters, std::size_t Release,
              class... Arguments>
    Handle<Object> make(Slot<Index, Status*(Parameters...)> create,
                        Slot<Release, void(Object*)> release, Arguments... arguments) const {
        Object* object = nullptr;
        check(function(create)(arguments..., &object));
        return {object, function(release)};
    }

  private:
    template <std::size_t Index, class Signature>
    [[nodiscard]] Signature* function(Slot<Index, Signature>) const {
        return reinterpret_cast<Signature*>(const_cast<void*>(table_[Index]));
    }

    void check(Status* status) const;

    const void* const* table_ = nullptr;
    std::string version_;
};

}  // namespace mammoth::detail::ort
