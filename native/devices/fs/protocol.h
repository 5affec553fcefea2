// FUSE on the wire, as Linux' virtio-fs driver speaks it: messages of the versions 7.31 to
// 7.36, little-endian, and the device's own configuration (virtio 1.2 §5.11).
#ifndef EMBERVM_DEVICES_FS_PROTOCOL_H_
#define EMBERVM_DEVICES_FS_PROTOCOL_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace embervm::devices::fs {

// virtio 1.2 §5.11.4.
inline constexpr std::size_t kTagBytes = 36;
struct Config {
  std::array<char, kTagBytes> tag;
  std::uint32_t num_request_queues;
};
static_assert(sizeof(Config) == 40);

inline constexpr std::uint32_t kMajor = 7;
inline constexpr std::uint32_t kMinor = 36;
// What a driver has to speak at least: readdirplus, max_pages and renameat2 are in it.
inline constexpr std::uint32_t kMinMinor = 31;
inline constexpr std::uint64_t kRootId = 1;

enum class Opcode : std::uint32_t {
  kLookup = 1,
  kForget = 2,
  kGetattr = 3,
  kSetattr = 4,
  kReadlink = 5,
  kSymlink = 6,
  kMknod = 8,
  kMkdir = 9,
  kUnlink = 10,
  kRmdir = 11,
  kRename = 12,
  kLink = 13,
  kOpen = 14,
  kRead = 15,
  kWrite = 16,
  kStatfs = 17,
  kRelease = 18,
  kFsync = 20,
  kSetxattr = 21,
  kGetxattr = 22,
  kListxattr = 23,
  kRemovexattr = 24,
  kFlush = 25,
  kInit = 26,
  kOpendir = 27,
  kReaddir = 28,
  kReleasedir = 29,
  kFsyncdir = 30,
  kGetlk = 31,
  kSetlk = 32,
  kSetlkw = 33,
  kAccess = 34,
  kCreate = 35,
  kInterrupt = 36,
  kDestroy = 38,
  kBatchForget = 42,
  kFallocate = 43,
  kReaddirplus = 44,
  kRename2 = 45,
  kLseek = 46,
  kCopyFileRange = 47,
  kSyncfs = 50,
};

struct InHeader {
  std::uint32_t len;
  std::uint32_t opcode;
  std::uint64_t unique;
  std::uint64_t nodeid;
  std::uint32_t uid;
  std::uint32_t gid;
  std::uint32_t pid;
  std::uint32_t padding;
};
static_assert(sizeof(InHeader) == 40);

struct OutHeader {
  std::uint32_t len;
  // 0, or a negative errno.
  std::int32_t error;
  std::uint64_t unique;
};
static_assert(sizeof(OutHeader) == 16);

// Bits of InitIn::flags and InitOut::flags.
inline constexpr std::uint32_t kInitAsyncRead = 1U << 0U;
inline constexpr std::uint32_t kInitPosixLocks = 1U << 1U;
inline constexpr std::uint32_t kInitAtomicTruncate = 1U << 3U;
inline constexpr std::uint32_t kInitBigWrites = 1U << 5U;
inline constexpr std::uint32_t kInitFlockLocks = 1U << 10U;
inline constexpr std::uint32_t kInitAutoInvalidate = 1U << 12U;
inline constexpr std::uint32_t kInitReaddirplus = 1U << 13U;
inline constexpr std::uint32_t kInitReaddirplusAuto = 1U << 14U;
inline constexpr std::uint32_t kInitAsyncDirectIo = 1U << 15U;
inline constexpr std::uint32_t kInitWriteback = 1U << 16U;
inline constexpr std::uint32_t kInitParallelDirops = 1U << 18U;
inline constexpr std::uint32_t kInitMaxPages = 1U << 22U;
inline constexpr std::uint32_t kInitCacheSymlinks = 1U << 23U;

struct InitIn {
  std::uint32_t major;
  std::uint32_t minor;
  std::uint32_t max_readahead;
  std::uint32_t flags;
};
static_assert(sizeof(InitIn) == 16);

struct InitOut {
  std::uint32_t major;
  std::uint32_t minor;
  std::uint32_t max_readahead;
  std::uint32_t flags;
  std::uint16_t max_background;
  std::uint16_t congestion_threshold;
  std::uint32_t max_write;
  std::uint32_t time_granularity;
  std::uint16_t max_pages;
  std::uint16_t map_alignment;
  std::uint32_t flags2;
  std::array<std::uint32_t, 7> unused;
};
static_assert(sizeof(InitOut) == 64);

struct Attributes {
  std::uint64_t inode;
  std::uint64_t size;
  std::uint64_t blocks;
  std::uint64_t atime;
  std::uint64_t mtime;
  std::uint64_t ctime;
  std::uint32_t atime_ns;
  std::uint32_t mtime_ns;
  std::uint32_t ctime_ns;
  std::uint32_t mode;
  std::uint32_t links;
  std::uint32_t uid;
  std::uint32_t gid;
  std::uint32_t device;
  std::uint32_t block_size;
  std::uint32_t flags;
};
static_assert(sizeof(Attributes) == 88);

struct EntryOut {
  std::uint64_t nodeid;
  std::uint64_t generation;
  std::uint64_t entry_valid;
  std::uint64_t attr_valid;
  std::uint32_t entry_valid_ns;
  std::uint32_t attr_valid_ns;
  Attributes attributes;
};
static_assert(sizeof(EntryOut) == 128);

struct AttributesOut {
  std::uint64_t valid;
  std::uint32_t valid_ns;
  std::uint32_t unused;
  Attributes attributes;
};
static_assert(sizeof(AttributesOut) == 104);

struct ForgetIn {
  std::uint64_t lookups;
};
struct BatchForgetIn {
  std::uint32_t count;
  std::uint32_t unused;
};
struct ForgetOne {
  std::uint64_t nodeid;
  std::uint64_t lookups;
};
static_assert(sizeof(ForgetOne) == 16);

struct GetattrIn {
  std::uint32_t flags;
  std::uint32_t unused;
  std::uint64_t handle;
};
static_assert(sizeof(GetattrIn) == 16);

inline constexpr std::uint32_t kSetMode = 1U << 0U;
inline constexpr std::uint32_t kSetUid = 1U << 1U;
inline constexpr std::uint32_t kSetGid = 1U << 2U;
inline constexpr std::uint32_t kSetSize = 1U << 3U;
inline constexpr std::uint32_t kSetAtime = 1U << 4U;
inline constexpr std::uint32_t kSetMtime = 1U << 5U;
inline constexpr std::uint32_t kSetHandle = 1U << 6U;
inline constexpr std::uint32_t kSetAtimeNow = 1U << 7U;
inline constexpr std::uint32_t kSetMtimeNow = 1U << 8U;

struct SetattrIn {
  std::uint32_t valid;
  std::uint32_t padding;
  std::uint64_t handle;
  std::uint64_t size;
  std::uint64_t lock_owner;
  std::uint64_t atime;
  std::uint64_t mtime;
  std::uint64_t ctime;
  std::uint32_t atime_ns;
  std::uint32_t mtime_ns;
  std::uint32_t ctime_ns;
  std::uint32_t mode;
  std::uint32_t unused4;
  std::uint32_t uid;
  std::uint32_t gid;
  std::uint32_t unused5;
};
static_assert(sizeof(SetattrIn) == 88);

struct MknodIn {
  std::uint32_t mode;
  std::uint32_t device;
  std::uint32_t umask;
  std::uint32_t padding;
};
static_assert(sizeof(MknodIn) == 16);

struct MkdirIn {
  std::uint32_t mode;
  std::uint32_t umask;
};
struct RenameIn {
  std::uint64_t new_directory;
};
struct Rename2In {
  std::uint64_t new_directory;
  std::uint32_t flags;
  std::uint32_t padding;
};
static_assert(sizeof(Rename2In) == 16);
struct LinkIn {
  std::uint64_t old_nodeid;
};

struct OpenIn {
  std::uint32_t flags;
  std::uint32_t open_flags;
};
inline constexpr std::uint32_t kOpenDirectIo = 1U << 0U;
inline constexpr std::uint32_t kOpenKeepCache = 1U << 1U;
inline constexpr std::uint32_t kOpenCacheDirectory = 1U << 3U;
struct OpenOut {
  std::uint64_t handle;
  std::uint32_t open_flags;
  std::uint32_t padding;
};
static_assert(sizeof(OpenOut) == 16);

struct CreateIn {
  std::uint32_t flags;
  std::uint32_t mode;
  std::uint32_t umask;
  std::uint32_t open_flags;
};
static_assert(sizeof(CreateIn) == 16);

inline constexpr std::uint32_t kReleaseFlush = 1U << 0U;
inline constexpr std::uint32_t kReleaseFlockUnlock = 1U << 1U;
struct ReleaseIn {
  std::uint64_t handle;
  std::uint32_t flags;
  std::uint32_t release_flags;
  std::uint64_t lock_owner;
};
static_assert(sizeof(ReleaseIn) == 24);

struct FlushIn {
  std::uint64_t handle;
  std::uint32_t unused;
  std::uint32_t padding;
  std::uint64_t lock_owner;
};
static_assert(sizeof(FlushIn) == 24);

// Reads of files and of directories.
struct ReadIn {
  std::uint64_t handle;
  std::uint64_t offset;
  std::uint32_t size;
  std::uint32_t read_flags;
  std::uint64_t lock_owner;
  std::uint32_t flags;
  std::uint32_t padding;
};
static_assert(sizeof(ReadIn) == 40);

struct WriteIn {
  std::uint64_t handle;
  std::uint64_t offset;
  std::uint32_t size;
  std::uint32_t write_flags;
  std::uint64_t lock_owner;
  std::uint32_t flags;
  std::uint32_t padding;
};
static_assert(sizeof(WriteIn) == 40);

struct WriteOut {
  std::uint32_t size;
  std::uint32_t padding;
};

struct StatfsOut {
  std::uint64_t blocks;
  std::uint64_t blocks_free;
  std::uint64_t blocks_available;
  std::uint64_t files;
  std::uint64_t files_free;
  std::uint32_t block_size;
  std::uint32_t name_length;
  std::uint32_t fragment_size;
  std::uint32_t padding;
  std::array<std::uint32_t, 6> spare;
};
static_assert(sizeof(StatfsOut) == 80);

inline constexpr std::uint32_t kFsyncDataOnly = 1;
struct FsyncIn {
  std::uint64_t handle;
  std::uint32_t flags;
  std::uint32_t padding;
};
static_assert(sizeof(FsyncIn) == 16);

// Before kInitSetxattrExt, which is not offered.
struct SetxattrIn {
  std::uint32_t size;
  std::uint32_t flags;
};
struct GetxattrIn {
  std::uint32_t size;
  std::uint32_t padding;
};
struct GetxattrOut {
  std::uint32_t size;
  std::uint32_t padding;
};

struct FileLock {
  std::uint64_t start;
  std::uint64_t end;
  std::uint32_t type;
  std::uint32_t pid;
};
inline constexpr std::uint32_t kLockFlock = 1;
struct LockIn {
  std::uint64_t handle;
  std::uint64_t owner;
  FileLock lock;
  std::uint32_t flags;
  std::uint32_t padding;
};
static_assert(sizeof(LockIn) == 48);
struct LockOut {
  FileLock lock;
};
static_assert(sizeof(LockOut) == 24);

struct AccessIn {
  std::uint32_t mask;
  std::uint32_t padding;
};
struct InterruptIn {
  std::uint64_t unique;
};

struct FallocateIn {
  std::uint64_t handle;
  std::uint64_t offset;
  std::uint64_t length;
  std::uint32_t mode;
  std::uint32_t padding;
};
static_assert(sizeof(FallocateIn) == 32);

struct LseekIn {
  std::uint64_t handle;
  std::uint64_t offset;
  std::uint32_t whence;
  std::uint32_t padding;
};
static_assert(sizeof(LseekIn) == 24);
struct LseekOut {
  std::uint64_t offset;
};

struct CopyFileRangeIn {
  std::uint64_t in_handle;
  std::uint64_t in_offset;
  std::uint64_t out_nodeid;
  std::uint64_t out_handle;
  std::uint64_t out_offset;
  std::uint64_t length;
  std::uint64_t flags;
};
static_assert(sizeof(CopyFileRangeIn) == 56);

// The name follows, then zeroes up to a multiple of 8 bytes.
struct DirectoryEntry {
  std::uint64_t inode;
  std::uint64_t offset;
  std::uint32_t name_length;
  std::uint32_t type;
};
static_assert(sizeof(DirectoryEntry) == 24);
inline constexpr std::size_t kEntryAlignment = 8;

}  // namespace embervm::devices::fs

#endif  // EMBERVM_DEVICES_FS_PROTOCOL_H_
