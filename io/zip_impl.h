// The part of zip that .npz and .pt need: a directory of entries, stored or deflated, no encryption. Offsets and sizes are checked against the file.
#pragma once

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <zlib.h>

#include "mien/tensor/error.h"

namespace mien {

struct ZipEntry {
  std::string name;
  std::uint16_t method = 0;
  std::uint64_t packed = 0, size = 0, header = 0;
  std::uint32_t crc = 0;
};

class ZipReader {
 public:
  ZipReader(std::span<const std::byte> bytes, std::string file) : bytes_(bytes), file_(std::move(file)) { read_directory(); }
  const std::vector<ZipEntry>& entries() const noexcept { return entries_; }

  std::vector<std::byte> read(const ZipEntry& e) const {
    if (e.header + 30 > bytes_.size() || u32(e.header) != 0x04034b50) refuse("entry " + e.name + " has no header");
    const std::uint64_t begin = e.header + 30 + u16(e.header + 26) + u16(e.header + 28);
    if (begin > bytes_.size() || e.packed > bytes_.size() - begin) refuse("entry " + e.name + " leaves the file");
    const auto packed = bytes_.subspan(begin, e.packed);
    std::vector<std::byte> out;
    if (e.method == 0) {
      if (e.packed != e.size) refuse("entry " + e.name + " is stored with two sizes");
      out.assign(packed.begin(), packed.end());
    } else {
      if (e.method != 8) refuse("entry " + e.name + " is compressed in a way that is not read");
      if (e.size / 1032 > e.packed + 1) refuse("entry " + e.name + " claims to unpack to more than deflate can");
      out.resize(e.size);
      inflate_into(packed, out, e.name);
    }
    if (static_cast<std::uint32_t>(::crc32(0, reinterpret_cast<const Bytef*>(out.data()), static_cast<uInt>(out.size()))) != e.crc && e.crc != 0)
      refuse("entry " + e.name + " does not fit its checksum");
    return out;
  }
  [[noreturn]] void refuse(const std::string& why) const { throw IoError(IoKind::bad_data, "zip", file_, why, "The file is damaged; get it again."); }

 private:
  std::uint64_t number(std::uint64_t at, int n) const {
    if (at + static_cast<std::uint64_t>(n) > bytes_.size()) refuse("ends early");
    std::uint64_t v = 0;
    std::memcpy(&v, bytes_.data() + at, static_cast<std::size_t>(n));
    return v;
  }
  std::uint16_t u16(std::uint64_t at) const { return static_cast<std::uint16_t>(number(at, 2)); }
  std::uint32_t u32(std::uint64_t at) const { return static_cast<std::uint32_t>(number(at, 4)); }

  void read_directory() {
    if (bytes_.size() < 22) refuse("is too short for a zip file");
    std::uint64_t end = bytes_.size() - 22;
    const std::uint64_t lowest = bytes_.size() > 66000 ? bytes_.size() - 66000 : 0;
    while (u32(end) != 0x06054b50) {
      if (end == lowest) refuse("has no zip directory");
      --end;
    }
    std::uint64_t count = u16(end + 10), at = u32(end + 16);
    if (at == 0xffffffff || count == 0xffff) {  // zip64
      if (end < 20 || u32(end - 20) != 0x07064b50) refuse("has no zip64 directory");
      const std::uint64_t record = number(end - 12, 8);
      count = number(record + 32, 8);
      at = number(record + 48, 8);
    }
    if (count > 4096) refuse("has " + std::to_string(count) + " entries, more than 4096");
    for (std::uint64_t i = 0; i < count; ++i) {
      if (u32(at) != 0x02014b50) refuse("has a damaged zip directory");
      ZipEntry e;
      e.method = u16(at + 10);
      e.crc = u32(at + 16);
      e.packed = u32(at + 20);
      e.size = u32(at + 24);
      e.header = u32(at + 42);
      const std::uint64_t name = u16(at + 28), extra = u16(at + 30);
      if (at + 46 + name + extra > bytes_.size()) refuse("ends in its directory");
      e.name.assign(reinterpret_cast<const char*>(bytes_.data()) + at + 46, name);
      std::uint64_t x = at + 46 + name, stop = x + extra;
      while (x + 4 <= stop) {
        std::uint64_t field = x + 4;
        const std::uint64_t next = field + u16(x + 2);
        if (u16(x) == 1)
          for (std::uint64_t* v : {&e.size, &e.packed, &e.header})
            if (*v == 0xffffffff && field + 8 <= next) {
              *v = number(field, 8);
              field += 8;
            }
        x = next;
      }
      entries_.push_back(std::move(e));
      at += 46 + name + extra + u16(at + 32);
    }
  }

  void inflate_into(std::span<const std::byte> packed, std::vector<std::byte>& out, const std::string& name) const {
    z_stream z{};
    if (inflateInit2(&z, -15) != Z_OK) throw OutOfMemory("zip", file_ + ": no memory to unpack");
    z.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(packed.data()));
    z.avail_in = static_cast<uInt>(packed.size());
    z.next_out = reinterpret_cast<Bytef*>(out.data());
    z.avail_out = static_cast<uInt>(out.size());
    const int code = inflate(&z, Z_FINISH);
    const bool whole = code == Z_STREAM_END && z.avail_out == 0;
    inflateEnd(&z);
    if (!whole) refuse("entry " + name + " does not unpack to its size");
  }

  std::span<const std::byte> bytes_;
  std::string file_;
  std::vector<ZipEntry> entries_;
};

}  // namespace mien
