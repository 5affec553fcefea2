#include "copy_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../limits.h"
#include "../ttrpc.h"
#include "files.h"

enum { kPermissions = 07777, kDefaultDirectoryMode = 0750, kPrivate = 0600 };

// Where something is to be: a name in a directory, and the name it has until then.
struct place {
  int directory;
  char name[AGENT_FILE_NAME_SIZE];
  char temporary[AGENT_FILE_NAME_SIZE];
};

static int failed(const char* what, const char* path, int error, struct text* reason) {
  text_failure(reason, what, path, error);
  switch (error) {
    case ENAMETOOLONG:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    // A link leads out.
    case EXDEV:
      return TTRPC_INVALID_ARGUMENT;
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
      return TTRPC_RESOURCE_EXHAUSTED;
    default:
      return TTRPC_INTERNAL;
  }
}

static int refused(const char* why, struct text* reason) {
  text_join(reason, why, NULL);
  return TTRPC_INVALID_ARGUMENT;
}

// --- The place

static bool is_name(const char* from, size_t length) {
  return length > 0 && length < AGENT_FILE_NAME_SIZE &&
         !(from[0] == '.' && (length == 1 || (length == 2 && from[1] == '.')));
}

// The path below the directory, when it is names alone; else NULL.
static const char* path_below(const char* path) {
  const size_t root = sizeof(COPY_FILE_ROOT) - 1;
  if (strncmp(path, COPY_FILE_ROOT, root) != 0 || path[root] != '/' ||
      strlen(path) >= AGENT_PATH_SIZE) {
    return NULL;
  }
  const char* below = path + root + 1;
  for (const char* at = below;; at++) {
    const size_t length = strcspn(at, "/");
    if (!is_name(at, length)) {
      return NULL;
    }
    at += length;
    if (*at == '\0') {
      return below;
    }
  }
}

static int open_directory(int root, const char* path) {
  const struct open_how how = {
      .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
      .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
  };
  return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

static int make_directory(int parent, const char* name, unsigned mode, const uint32_t* owner) {
  if (mkdirat(parent, name, S_IRWXU) < 0 && (errno != EEXIST || owner == NULL)) {
    return errno;
  }
  __attribute__((cleanup(close_descriptor))) const int fd =
      openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  // The owner first: a change of it takes bits of the mode away.
  const bool done =
      fd >= 0 && (owner == NULL || fchown(fd, owner[0], owner[1]) == 0) && fchmod(fd, mode) == 0;
  return done ? 0 : errno;
}

// One directory of the path: `end` is where it ends, `parent` the one above it.
static int enter(int root, const char* path, size_t end, unsigned mode, int* parent) {
  char part[AGENT_PATH_SIZE];
  memcpy(part, path, end);
  part[end] = '\0';
  int fd = open_directory(root, part);
  if (fd < 0 && errno == ENOENT) {
    const char* slash = strrchr(part, '/');
    const int error = make_directory(*parent, slash == NULL ? part : slash + 1, mode, NULL);
    if (error != 0 && error != EEXIST) {
      return error;
    }
    fd = open_directory(root, part);
  }
  if (fd < 0) {
    return errno;
  }
  close_descriptor(parent);
  *parent = fd;
  return 0;
}

// Makes what is missing of the directories above it.
static int open_place(int root, const Grpc__CopyFileRequest* request, struct place* place,
                      struct text* reason) {
  const unsigned given = request->dir_mode & kPermissions;
  const char* path = path_below(request->path);
  if (path == NULL) {
    return refused("path must name something below " COPY_FILE_ROOT ", without . and ..", reason);
  }
  place->directory = fcntl(root, F_DUPFD_CLOEXEC, 0);
  int error = place->directory < 0 ? errno : 0;
  const char* name = path;
  for (size_t i = 0; error == 0 && path[i] != '\0'; i++) {
    if (path[i] == '/') {
      error = enter(root, path, i, given == 0 ? kDefaultDirectoryMode : given, &place->directory);
      name = path + i + 1;
    }
  }
  struct text temporary;
  text_join(&temporary, ".", name, ".part", NULL);
  if (error == 0 &&
      (!text_copy(place->name, sizeof(place->name), name, strlen(name)) ||
       !text_copy(place->temporary, sizeof(place->temporary), temporary.data, temporary.length))) {
    error = ENAMETOOLONG;
  }
  return error == 0 ? 0 : failed("open the directory of", request->path, error, reason);
}

static int put_in_place(const struct place* place) {
  return renameat(place->directory, place->temporary, place->directory, place->name) == 0 ? 0
                                                                                          : errno;
}

static int remove_temporary(const struct place* place) {
  return unlinkat(place->directory, place->temporary, 0) == 0 || errno == ENOENT ? 0 : errno;
}

// --- Links

static int make_link(const struct place* place, const Grpc__CopyFileRequest* request) {
  char target[AGENT_PATH_SIZE];
  memcpy(target, request->data.data, request->data.len);
  target[request->data.len] = '\0';
  int error = remove_temporary(place);
  if (error == 0 && symlinkat(target, place->directory, place->temporary) < 0) {
    return errno;
  }
  if (error == 0 && fchownat(place->directory, place->temporary, (uid_t)request->uid,
                             (gid_t)request->gid, AT_SYMLINK_NOFOLLOW) < 0) {
    error = errno;
  }
  return error == 0 ? put_in_place(place) : error;
}

// --- Files

// What is there under the name may be a container's own doing, so that a first chunk
// always makes a new file, and a later one adds to no other kind of file.
static int open_temporary(const struct place* place, int64_t offset, int* error) {
  int flags = O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
  if (offset == 0) {
    *error = remove_temporary(place);
    flags |= O_CREAT | O_EXCL;
  }
  const int fd = *error == 0 ? openat(place->directory, place->temporary, flags, kPrivate) : -1;
  if (fd < 0 && *error == 0) {
    *error = errno;
  }
  return fd;
}

static int write_all(int fd, const ProtobufCBinaryData* data, int64_t offset) {
  for (size_t at = 0; at < data->len;) {
    const ssize_t count = pwrite(fd, data->data + at, data->len - at, offset + (int64_t)at);
    if (count < 0 && errno != EINTR) {
      return errno;
    }
    at += count > 0 ? (size_t)count : 0;
  }
  return 0;
}

static int finish_file(int fd, const struct place* place, const Grpc__CopyFileRequest* request) {
  if (ftruncate(fd, request->file_size) < 0 ||
      fchown(fd, (uid_t)request->uid, (gid_t)request->gid) < 0 ||
      fchmod(fd, request->file_mode & kPermissions) < 0) {
    return errno;
  }
  return put_in_place(place);
}

static int add_chunk(const struct place* place, const Grpc__CopyFileRequest* request,
                     struct text* reason) {
  int error = 0;
  __attribute__((cleanup(close_descriptor))) const int fd =
      open_temporary(place, request->offset, &error);
  if (error == ENOENT) {
    text_join(reason, "the first chunk of the file is missing", NULL);
    return TTRPC_FAILED_PRECONDITION;
  }
  struct stat now;
  if (error == 0 && fstat(fd, &now) < 0) {
    error = errno;
  }
  if (error == 0 && (!S_ISREG(now.st_mode) || now.st_nlink != 1 || now.st_size < request->offset)) {
    text_join(reason, "a chunk before this one is missing", NULL);
    return TTRPC_FAILED_PRECONDITION;
  }
  if (error == 0) {
    error = write_all(fd, &request->data, request->offset);
  }
  if (error == 0 && request->offset + (int64_t)request->data.len == request->file_size) {
    error = finish_file(fd, place, request);
  }
  if (error != 0) {
    remove_temporary(place);
    return failed("write", request->path, error, reason);
  }
  return 0;
}

static int check_file(const Grpc__CopyFileRequest* request, uint64_t limit, struct text* reason) {
  if (request->file_size < 0 || request->offset < 0 || request->offset > request->file_size ||
      request->data.len > (uint64_t)(request->file_size - request->offset)) {
    return refused("offset and data must be within file_size", reason);
  }
  if ((uint64_t)request->file_size > limit) {
    text_join(reason, "file_size is more than the guest has room for", NULL);
    return TTRPC_RESOURCE_EXHAUSTED;
  }
  return 0;
}

static int check_link(const Grpc__CopyFileRequest* request, struct text* reason) {
  const ProtobufCBinaryData* target = &request->data;
  const bool valid = target->len > 0 && target->len < AGENT_PATH_SIZE &&
                     memchr(target->data, '\0', target->len) == NULL;
  return valid ? 0 : refused("data must be the link's target", reason);
}

int copy_file(int root, const Grpc__CopyFileRequest* request, uint64_t limit, struct text* reason) {
  const unsigned kind = request->file_mode & S_IFMT;
  int code = 0;
  if (request->uid < 0 || request->gid < 0) {
    code = refused("uid and gid must be 0 or more", reason);
  } else if (kind == S_IFREG || kind == 0) {
    code = check_file(request, limit, reason);
  } else if (kind == S_IFLNK) {
    code = check_link(request, reason);
  } else if (kind != S_IFDIR) {
    code = refused("file_mode must be that of a file, a directory or a link", reason);
  }
  struct place place = {.directory = -1};
  if (code == 0) {
    code = open_place(root, request, &place, reason);
  }
  if (code == 0 && kind == S_IFDIR) {
    const uint32_t owner[] = {(uint32_t)request->uid, (uint32_t)request->gid};
    const int error =
        make_directory(place.directory, place.name, request->file_mode & kPermissions, owner);
    code = error == 0 ? 0 : failed("make", request->path, error, reason);
  } else if (code == 0 && kind == S_IFLNK) {
    const int error = make_link(&place, request);
    code = error == 0 ? 0 : failed("link", request->path, error, reason);
  } else if (code == 0) {
    code = add_chunk(&place, request, reason);
  }
  close_descriptor(&place.directory);
  return code;
}
