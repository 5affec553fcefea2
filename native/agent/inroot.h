// Opens a path as if `root_fd` were "/": symbolic links and ".." of an untrusted
// image never lead out of it.
#ifndef EMBERVM_AGENT_INROOT_H_
#define EMBERVM_AGENT_INROOT_H_

// Close-on-exec. -1 with errno.
int open_in_root(int root_fd, const char* path, int flags);
// With O_CREAT: `mode` is what a new file gets, less the umask.
int create_in_root(int root_fd, const char* path, int flags, unsigned mode);

// A path of names alone below a directory: links and ".." are refused, so that
// whoever moves things about meanwhile cannot lead it elsewhere.
int open_beneath(int dir_fd, const char* path, int flags);

#endif  // EMBERVM_AGENT_INROOT_H_
