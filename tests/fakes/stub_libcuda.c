/* A driver of a GPU that is none: libcuda.so.1 for tests, which checks handles and flags and runs no kernel.
 *
 *     cc -shared -fPIC -o folder/libcuda.so.1 stub_libcuda.c        then LD_LIBRARY_PATH=folder
 *
 * It has what kernels/cuda/device/driver.py asks of the driver, by the names that cuda-bindings looks up. Memory is the
 * host's, so copies are real; a launch leaves its outputs as they are, so every numeric check must fail. Whatever a
 * driver would refuse is CUDA_ERROR_INVALID_VALUE or _INVALID_HANDLE here, and never a crash.
 * Source: CUDA Driver API 13.0, cuda.h.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200 };
enum { INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500 };
enum { MULTIPROCESSORS = 16, L2_BYTES = 38, MAJOR = 75, MINOR = 76 }; /* CUdevice_attribute */
enum { NON_BLOCKING = 1, DEVICE_MAP = 2, THREAD_LOCAL = 1, MOST_THREADS = 1024 };
static const uint64_t MEMORY_BYTES = 2ull << 30; /* ceilings stream a share of it, works rotate beyond the cache: */
static const int CACHE_BYTES = 2 << 20;          /* with little of either, both take moments */

typedef enum { CONTEXT = 0x6d620001, STREAM, MODULE, FUNCTION, EVENT, GRAPH, EXECUTABLE } Kind;
typedef struct {
    Kind kind;
    int recorded, capturing;
} Object;

static Object context = {CONTEXT, 0, 0};
static Object *current;
static uint64_t taken_bytes;

static Object *made(Kind kind) {
    Object *object = calloc(1, sizeof *object);
    object->kind = kind;
    return object;
}

static int is(const void *handle, Kind kind) { return handle && ((const Object *)handle)->kind == kind; }

static int destroy(void *handle, Kind kind) {
    if (!is(handle, kind)) return INVALID_HANDLE;
    ((Object *)handle)->kind = 0; /* a second time is an error; the few bytes stay */
    return SUCCESS;
}

static int in_stream(void *stream) {
    if (current != &context) return INVALID_CONTEXT;
    return is(stream, STREAM) ? SUCCESS : INVALID_HANDLE;
}

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
int cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal ? INVALID_DEVICE : SUCCESS; }
int cuDeviceGetName(char *name, int size, int device) { return snprintf(name, size, "Stub H100"), SUCCESS; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = MEMORY_BYTES, SUCCESS; }
int cuDeviceGetPCIBusId(char *id, int size, int device) { return snprintf(id, size, "0000:A4:00.0"), SUCCESS; }

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case MAJOR: return *value = 9, SUCCESS;
    case MINOR: return *value = 0, SUCCESS;
    case MULTIPROCESSORS: return *value = 132, SUCCESS;
    case L2_BYTES: return *value = CACHE_BYTES, SUCCESS;
    default: return INVALID_VALUE;
    }
}

int cuDevicePrimaryCtxRetain(void **handle, int device) { return *handle = &context, SUCCESS; }
int cuCtxGetCurrent(void **handle) { return *handle = current, SUCCESS; }
int cuCtxSetCurrent(void *handle) {
    if (!is(handle, CONTEXT)) return INVALID_CONTEXT;
    return current = handle, SUCCESS;
}

int cuStreamCreate(void **stream, unsigned flags) {
    return *stream = made(STREAM), flags == NON_BLOCKING ? SUCCESS : INVALID_VALUE;
}
int cuStreamSynchronize(void *stream) { return in_stream(stream); }

/* Memory: as much as a real one has; lazily zeroed pages of the host stand for it. */

int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (!bytes || current != &context) return INVALID_VALUE;
    if (taken_bytes + bytes > MEMORY_BYTES) return OUT_OF_MEMORY;
    char *memory = NULL;
    if (posix_memalign((void **)&memory, 512, bytes + 512)) return OUT_OF_MEMORY;
    memcpy(memory, &bytes, sizeof bytes);
    taken_bytes += bytes;
    return *address = (uint64_t)(uintptr_t)(memory + 512), SUCCESS;
}
int cuMemFree_v2(uint64_t address) {
    if (!address || address % 512) return INVALID_VALUE;
    char *memory = (char *)(uintptr_t)address - 512;
    size_t bytes;
    memcpy(&bytes, memory, sizeof bytes);
    taken_bytes -= bytes;
    return free(memory), SUCCESS;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    int status = in_stream(stream);
    if (!status) memcpy((void *)(uintptr_t)to, from, bytes);
    return status;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    int status = in_stream(stream);
    if (!status) memcpy(to, (void *)(uintptr_t)from, bytes);
    return status;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream) {
    int status = in_stream(stream);
    if (!status) memset((void *)(uintptr_t)to, value, bytes);
    return status;
}
int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
    return *memory = calloc(1, bytes), flags == DEVICE_MAP ? SUCCESS : INVALID_VALUE;
}
int cuMemHostGetDevicePointer_v2(uint64_t *address, void *memory, unsigned flags) {
    return *address = (uint64_t)(uintptr_t)memory, flags ? INVALID_VALUE : SUCCESS;
}
int cuMemFreeHost(void *memory) { return free(memory), SUCCESS; }

/* Code and launches */

int cuModuleLoadData(void **module, const void *image) {
    *module = made(MODULE);
    return memcmp(image, "\177ELF", 4) ? INVALID_IMAGE : SUCCESS;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = made(FUNCTION);
    return is(module, MODULE) && *name ? SUCCESS : INVALID_HANDLE;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    int status = in_stream(stream);
    if (status) return status;
    if (!is(function, FUNCTION)) return INVALID_HANDLE;
    int fits = gx && gy && gz && gy < 65536 && gz < 65536 && bx && by == 1 && bz == 1 && bx <= MOST_THREADS;
    return fits && !shared && parameters && parameters[0] && !extra ? SUCCESS : INVALID_VALUE;
}

int cuStreamBeginCapture_v2(void *stream, int mode) {
    int status = in_stream(stream);
    if (status || ((Object *)stream)->capturing || mode != THREAD_LOCAL) return status ? status : INVALID_VALUE;
    return ((Object *)stream)->capturing = 1, SUCCESS;
}
int cuStreamEndCapture(void *stream, void **graph) {
    int status = in_stream(stream);
    if (status || !((Object *)stream)->capturing) return status ? status : INVALID_VALUE;
    ((Object *)stream)->capturing = 0;
    return *graph = made(GRAPH), SUCCESS;
}
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    if (!is(graph, GRAPH)) return INVALID_HANDLE;
    return *executable = made(EXECUTABLE), flags ? INVALID_VALUE : SUCCESS;
}
int cuGraphInstantiate(void **executable, void *graph, unsigned long long flags) {
    return cuGraphInstantiateWithFlags(executable, graph, flags);
}
int cuGraphLaunch(void *executable, void *stream) {
    return is(executable, EXECUTABLE) ? in_stream(stream) : INVALID_HANDLE;
}
int cuGraphDestroy(void *graph) { return destroy(graph, GRAPH); }
int cuGraphExecDestroy(void *executable) { return destroy(executable, EXECUTABLE); }

/* Events: each pair is two milliseconds and a half apart. */

int cuEventCreate(void **event, unsigned flags) { return *event = made(EVENT), flags ? INVALID_VALUE : SUCCESS; }
int cuEventRecord(void *event, void *stream) {
    if (!is(event, EVENT)) return INVALID_HANDLE;
    return ((Object *)event)->recorded = 1, in_stream(stream);
}
int cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) {
    if (!is(start, EVENT) || !is(end, EVENT)) return INVALID_HANDLE;
    if (!((Object *)start)->recorded || !((Object *)end)->recorded) return INVALID_VALUE;
    return *milliseconds = 2.5f, SUCCESS;
}
int cuEventElapsedTime(float *milliseconds, void *start, void *end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
int cuEventDestroy_v2(void *event) { return destroy(event, EVENT); }

/* How cuda-bindings finds all of these */

int cuGetErrorName(int error, const char **name) {
    switch (error) {
    case SUCCESS: return *name = "CUDA_SUCCESS", SUCCESS;
    case INVALID_VALUE: return *name = "CUDA_ERROR_INVALID_VALUE", SUCCESS;
    case OUT_OF_MEMORY: return *name = "CUDA_ERROR_OUT_OF_MEMORY", SUCCESS;
    case INVALID_DEVICE: return *name = "CUDA_ERROR_INVALID_DEVICE", SUCCESS;
    case INVALID_IMAGE: return *name = "CUDA_ERROR_INVALID_IMAGE", SUCCESS;
    case INVALID_CONTEXT: return *name = "CUDA_ERROR_INVALID_CONTEXT", SUCCESS;
    case INVALID_HANDLE: return *name = "CUDA_ERROR_INVALID_HANDLE", SUCCESS;
    default: return INVALID_VALUE;
    }
}
int cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *found) {
    char newer[256];
    void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    snprintf(newer, sizeof newer, "%s_v2", name);
    *function = dlsym(self, newer);
    if (!*function) *function = dlsym(self, name);
    if (found) *found = *function ? 0 : 1; /* CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND */
    return *function ? SUCCESS : NOT_FOUND;
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
