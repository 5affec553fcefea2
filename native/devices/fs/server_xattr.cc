// FsServer: extended attributes.
#include <linux/xattr.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "devices/fs/limits.h"
#include "devices/fs/server.h"

namespace embervm::devices::fs {

namespace {

Answer<std::string> TakeXattrName(Body& body) {
  std::optional<std::string> name = body.TakeText(kMaxXattrName);
  if (!name.has_value()) return std::unexpected(EINVAL);
  return *std::move(name);
}

// What was found, or only how large it is when the driver asks for that with size 0.
int ReplyFound(Request& request, std::uint32_t asked, std::span<const std::byte> found) {
  if (asked == 0) {
    if (request.reply.room() < sizeof(GetxattrOut)) return EINVAL;
    request.reply.Put(GetxattrOut{.size = static_cast<std::uint32_t>(found.size()), .padding = 0});
    return 0;
  }
  if (found.size() > asked || found.size() > request.reply.room()) return ERANGE;
  request.reply.PutBytes(found);
  return 0;
}

}  // namespace

bool Server::AllowsXattr(const std::string& name) const {
  if (name.starts_with("user.")) return true;
  // The others mean something to the host: capabilities of programs, labels, white-outs.
  // They are for a guest that is trusted with ids, too.
  return !options_.squash.has_value() &&
         (name.starts_with("trusted.") || name == "security.capability");
}

int Server::Setxattr(Request& request) {
  SetxattrIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Node* const node = nodes_.Find(request.header.nodeid);
  if (node == nullptr) return ESTALE;
  const Answer<std::string> name = TakeXattrName(request.body);
  if (!name.has_value()) return name.error();
  if (!AllowsXattr(*name)) return EOPNOTSUPP;
  if (in.size > kMaxXattr) return E2BIG;
  if (in.size != request.body.size()) return EINVAL;
  if ((in.flags & ~static_cast<std::uint32_t>(XATTR_CREATE | XATTR_REPLACE)) != 0) return EINVAL;
  if (const int error = Reserve(in.size); error != 0) return error;
  const auto value = request.body.TakeBytes(in.size);
  const int result = ::setxattr(ProcPath(node->fd.get()).c_str(), name->c_str(), value.data(),
                                value.size(), static_cast<int>(in.flags));
  return result == 0 ? 0 : errno;
}

int Server::Getxattr(Request& request) {
  GetxattrIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Node* const node = nodes_.Find(request.header.nodeid);
  if (node == nullptr) return ESTALE;
  const Answer<std::string> name = TakeXattrName(request.body);
  if (!name.has_value()) return name.error();
  if (!AllowsXattr(*name)) return EOPNOTSUPP;
  std::vector<std::byte> value(kMaxXattr);
  const ssize_t length =
      ::getxattr(ProcPath(node->fd.get()).c_str(), name->c_str(), value.data(), value.size());
  if (length < 0) return errno;
  return ReplyFound(request, in.size, std::span(value).first(static_cast<std::size_t>(length)));
}

int Server::Listxattr(Request& request) {
  GetxattrIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Node* const node = nodes_.Find(request.header.nodeid);
  if (node == nullptr) return ESTALE;
  std::vector<char> names(kMaxXattr);
  const ssize_t length = ::listxattr(ProcPath(node->fd.get()).c_str(), names.data(), names.size());
  if (length < 0) return errno;
  std::string allowed;
  std::string_view rest(names.data(), static_cast<std::size_t>(length));
  while (!rest.empty()) {
    const std::string name(rest.substr(0, rest.find('\0')));
    rest.remove_prefix(std::min(rest.size(), name.size() + 1));
    if (AllowsXattr(name)) allowed.append(name).push_back('\0');
  }
  return ReplyFound(request, in.size, std::as_bytes(std::span(allowed)));
}

int Server::Removexattr(Request& request) {
  const Node* const node = nodes_.Find(request.header.nodeid);
  if (node == nullptr) return ESTALE;
  const Answer<std::string> name = TakeXattrName(request.body);
  if (!name.has_value()) return name.error();
  if (!AllowsXattr(*name)) return EOPNOTSUPP;
  const int result = ::removexattr(ProcPath(node->fd.get()).c_str(), name->c_str());
  return result == 0 ? 0 : errno;
}

}  // namespace embervm::devices::fs
