// Decoding: what pictures look like, and files that are damaged or lie.
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <map>
#include <fstream>
#include <sys/resource.h>
#include <zlib.h>

#include "catch.h"
#include "mien/data/encode.h"
#include "mien/data/image.h"
#include "mien/io/file.h"
#include "mien/tensor/error.h"
#if __has_include(<jpeglib.h>)
#include <jpeglib.h>
#define MIEN_TEST_JPEGLIB 1
#endif

namespace fs = std::filesystem;

namespace mien::test {
namespace {

using Bytes = std::vector<std::byte>;

Bytes bytes_of(const std::string& s) {
  Bytes out(s.size());
  std::memcpy(out.data(), s.data(), s.size());
  return out;
}
std::string refusal(const Bytes& bytes, const DecodeLimits& limits = {}) {
  try {
    decode_image(bytes, "photo", limits);
  } catch (const IoError& e) {
    CHECK(e.kind() == IoKind::bad_data);
    return e.what();
  }
  return "";
}
// A picture without repetition, smooth enough for JPEG.
Image gradient(std::int64_t w, std::int64_t h) {
  Image image{w, h, {}};
  for (std::int64_t y = 0; y < h; ++y)
    for (std::int64_t x = 0; x < w; ++x)
      for (const std::int64_t v : {x * 255 / std::max<std::int64_t>(w - 1, 1), y * 255 / std::max<std::int64_t>(h - 1, 1), (x + y) * 120 / (w + h)})
        image.pixels.push_back(static_cast<std::uint8_t>(v));
  return image;
}
Bytes written(void (*write)(const std::string&, const Image&), const Image& image, const char* leaf) {
  const fs::path dir = temp_dir("encode");
  write((dir / leaf).string(), image);
  Bytes bytes = read_file((dir / leaf).string());
  fs::remove_all(dir);
  return bytes;
}
Bytes jpeg(const Image& image) {
  return written([](const std::string& p, const Image& i) { write_jpeg(p, i, 95); }, image, "a.jpg");
}
Bytes png(const Image& image) { return written(write_png, image, "a.png"); }

std::string be32(std::uint32_t v) { return {static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8), static_cast<char>(v)}; }
std::string le(std::uint32_t v, int n) {
  std::string s;
  for (int i = 0; i < n; ++i) s += static_cast<char>(v >> (8 * i));
  return s;
}
std::string chunk(const std::string& type, const std::string& data) {
  const std::string body = type + data;
  return be32(static_cast<std::uint32_t>(data.size())) + body + be32(static_cast<std::uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()))));
}
// The zlib stream of `raw` and then `zeros` zero bytes, made piece by piece: the test itself must not need much memory.
std::string deflated(const std::string& raw, std::size_t zeros = 0) {
  z_stream z{};
  deflateInit(&z, 6);
  std::string out;
  const std::string block(1 << 16, '\0');
  char buffer[1 << 14];
  const auto feed = [&](const std::string& piece, int flush) {
    z.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(piece.data()));
    z.avail_in = static_cast<uInt>(piece.size());
    do {
      z.next_out = reinterpret_cast<Bytef*>(buffer);
      z.avail_out = sizeof buffer;
      deflate(&z, flush);
      out.append(buffer, sizeof buffer - z.avail_out);
    } while (z.avail_out == 0);
  };
  feed(raw, Z_NO_FLUSH);
  for (std::size_t done = 0; done < zeros; done += block.size()) feed(block, Z_NO_FLUSH);
  feed({}, Z_FINISH);
  deflateEnd(&z);
  return out;
}
// A PNG from its raw rows (without filter bytes).
Bytes raw_png(std::uint32_t w, std::uint32_t h, int depth, int color, const std::vector<std::string>& rows, const std::string& extra = {}, std::size_t zeros = 0) {
  std::string data;
  for (const auto& r : rows) data += std::string(1, '\0') + r;
  const std::string header = be32(w) + be32(h) + static_cast<char>(depth) + static_cast<char>(color) + std::string(3, '\0');
  return bytes_of(std::string("\x89PNG\r\n\x1a\n") + chunk("IHDR", header) + extra + chunk("IDAT", deflated(data, zeros)) + chunk("IEND", ""));
}
Bytes bmp(std::int32_t w, std::int32_t h, std::size_t body) {
  const auto size = static_cast<std::uint32_t>(54 + body);
  return bytes_of(std::string("BM") + le(size, 4) + le(0, 4) + le(54, 4) + le(40, 4) + le(static_cast<std::uint32_t>(w), 4) + le(static_cast<std::uint32_t>(h), 4) + le(1, 2) + le(24, 2) + std::string(24, '\0') +
                  std::string(body, '\x40'));
}
// The same JPEG with an EXIF block that says `orientation`.
Bytes with_exif(const Bytes& jpeg, int orientation, bool big_endian) {
  const auto n = [&](std::uint32_t v, int size) {
    std::string s = le(v, size);
    return big_endian ? std::string(s.rbegin(), s.rend()) : s;
  };
  const std::string tiff = std::string(big_endian ? "MM" : "II") + n(42, 2) + n(8, 4) + n(1, 2) + n(0x112, 2) + n(3, 2) + n(1, 4) + n(static_cast<std::uint32_t>(orientation), 2) + n(0, 2) + n(0, 4);
  const std::string body = std::string("Exif\0\0", 6) + tiff;
  const auto length = static_cast<std::uint32_t>(body.size() + 2);
  const Bytes app1 = bytes_of(std::string("\xff\xe1") + static_cast<char>(length >> 8) + static_cast<char>(length) + body);
  Bytes out = jpeg;
  out.insert(out.begin() + 2, app1.begin(), app1.end());
  return out;
}
std::array<int, 3> pixel(const Image& i, std::int64_t x, std::int64_t y) {
  const auto at = static_cast<std::size_t>((y * i.width + x) * 3);
  return {i.pixels[at], i.pixels[at + 1], i.pixels[at + 2]};
}

#ifdef MIEN_TEST_JPEGLIB
// libjpeg itself, for kinds that mien does not write.
Bytes special_jpeg(std::int64_t w, std::int64_t h, int components, J_COLOR_SPACE space, bool progressive, int value) {
  jpeg_compress_struct c{};
  jpeg_error_mgr errors{};
  c.err = jpeg_std_error(&errors);
  jpeg_create_compress(&c);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&c, &memory, &size);
  c.image_width = static_cast<JDIMENSION>(w), c.image_height = static_cast<JDIMENSION>(h);
  c.input_components = components, c.in_color_space = space;
  jpeg_set_defaults(&c);
  jpeg_set_quality(&c, 95, TRUE);
  if (progressive) jpeg_simple_progression(&c);
  jpeg_start_compress(&c, TRUE);
  std::vector<JSAMPLE> row(static_cast<std::size_t>(w * components), static_cast<JSAMPLE>(value));
  for (std::int64_t y = 0; y < h; ++y) {
    for (std::size_t x = 0; progressive && x < row.size(); ++x) row[x] = static_cast<JSAMPLE>((x * 3 + static_cast<std::size_t>(y) * 5) % 200);
    JSAMPROW p = row.data();
    jpeg_write_scanlines(&c, &p, 1);
  }
  jpeg_finish_compress(&c);
  Bytes out(size);
  std::memcpy(out.data(), memory, size);
  jpeg_destroy_compress(&c);
  free(memory);
  return out;
}
#endif

long resident_kib() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  return u.ru_maxrss;
}

}  // namespace

TEST_CASE("PNG comes back exactly, JPEG nearly", "[image]") {
  for (const auto& [w, h] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 2}, {17, 5}, {64, 48}}) {
    const Image image = gradient(w, h);
    const Image back = decode_image(png(image), "a.png");
    CHECK(back.width == w);
    CHECK(back.height == h);
    CHECK(back.pixels == image.pixels);
  }
  const Image image = gradient(64, 48), back = decode_image(jpeg(image), "a.jpg");
  REQUIRE(back.pixels.size() == image.pixels.size());
  int worst = 0;
  for (std::size_t i = 0; i < image.pixels.size(); ++i) worst = std::max(worst, std::abs(image.pixels[i] - back.pixels[i]));
  CHECK(worst <= 12);
}

TEST_CASE("EXIF: all eight turns, both byte orders", "[image]") {
  const Image image = gradient(48, 32);
  const Bytes plain = jpeg(image);
  // Where the corners top-left, top-right, bottom-right, bottom-left of the stored picture come to lie (EXIF 2.3, tag 0112).
  const std::map<int, std::array<int, 4>> corners = {{1, {0, 1, 2, 3}}, {2, {1, 0, 3, 2}}, {3, {2, 3, 0, 1}}, {4, {3, 2, 1, 0}}, {5, {0, 3, 2, 1}}, {6, {1, 2, 3, 0}}, {7, {2, 1, 0, 3}}, {8, {3, 0, 1, 2}}};
  const auto corner = [](const Image& i, int k) { return pixel(i, k == 0 || k == 3 ? 0 : i.width - 1, k < 2 ? 0 : i.height - 1); };
  const Image stored = decode_image(plain, "a.jpg");
  for (const auto& [orientation, to] : corners)
    for (const bool big : {false, true}) {
      INFO("orientation " << orientation << (big ? ", big-endian" : ", little-endian"));
      const Bytes turned = with_exif(plain, orientation, big);
      CHECK(exif_orientation(turned) == orientation);
      const Image upright = decode_image(turned, "a.jpg");
      CHECK(upright.width == (orientation < 5 ? 48 : 32));
      CHECK(upright.height == (orientation < 5 ? 32 : 48));
      for (int k = 0; k < 4; ++k) CHECK(corner(upright, to[static_cast<std::size_t>(k)]) == corner(stored, k));
      DecodeLimits as_stored;
      as_stored.apply_exif = false;
      CHECK(decode_image(turned, "a.jpg", as_stored).pixels == stored.pixels);
    }
  for (const int nonsense : {0, 9, 65535}) CHECK(decode_image(with_exif(plain, nonsense, false), "a.jpg").pixels == stored.pixels);
}

TEST_CASE("gray, palette, alpha and 16 bits become RGB", "[image]") {
  const auto one = [](const Bytes& b) { return pixel(decode_image(b, "a.png"), 0, 0); };
  CHECK(one(raw_png(1, 1, 8, 0, {"\x50"})) == std::array<int, 3>{0x50, 0x50, 0x50});
  CHECK(one(raw_png(1, 1, 8, 4, {std::string("\x50\x00", 2)})) == std::array<int, 3>{0x50, 0x50, 0x50});
  CHECK(one(raw_png(1, 1, 8, 6, {std::string("\x01\x02\x03\x00", 4)})) == std::array<int, 3>{1, 2, 3});
  CHECK(one(raw_png(1, 1, 16, 2, {std::string("\x11\x22\x33\x44\x55\x66", 6)})) == std::array<int, 3>{0x11, 0x33, 0x55});
  CHECK(one(raw_png(1, 1, 16, 0, {"\x77\x01"})) == std::array<int, 3>{0x77, 0x77, 0x77});
  CHECK(one(raw_png(1, 1, 8, 3, {"\x01"}, chunk("PLTE", std::string("\x09\x09\x09\x0a\x0b\x0c", 6)))) == std::array<int, 3>{10, 11, 12});
  CHECK(pixel(decode_image(raw_png(3, 1, 1, 0, {"\x40"}), "a.png"), 1, 0) == std::array<int, 3>{255, 255, 255});
  const Image b = decode_image(bmp(3, 2, 24), "a.bmp");
  CHECK(b.width == 3);
  CHECK(pixel(b, 2, 1) == std::array<int, 3>{0x40, 0x40, 0x40});
#ifdef MIEN_TEST_JPEGLIB
  CHECK(std::abs(pixel(decode_image(special_jpeg(16, 16, 1, JCS_GRAYSCALE, false, 90), "gray.jpg"), 5, 5)[2] - 90) <= 2);
  // libjpeg stores CMYK inverted, as Adobe does: 255 is no ink.
  CHECK(pixel(decode_image(special_jpeg(16, 16, 4, JCS_CMYK, false, 255), "cmyk.jpg"), 5, 5)[0] >= 250);
  CHECK(pixel(decode_image(special_jpeg(16, 16, 4, JCS_CMYK, false, 0), "cmyk.jpg"), 5, 5)[0] <= 5);
#endif
}

TEST_CASE("a picture cut anywhere is refused by name", "[image][hostile]") {
  std::vector<std::pair<const char*, Bytes>> files = {{"jpeg", jpeg(gradient(40, 24))}, {"png", png(gradient(40, 24))}, {"bmp", bmp(8, 6, 24 * 6)}};
#ifdef MIEN_TEST_JPEGLIB
  files.emplace_back("progressive", special_jpeg(40, 24, 3, JCS_RGB, true, 0));
#endif
  for (const auto& [kind, bytes] : files) {
    REQUIRE(refusal(bytes).empty());
    // A PNG without its end marker and the checksum before it still holds all of its pixels; everything shorter does not.
    const std::size_t enough = std::string(kind) == "png" ? bytes.size() - 16 : bytes.size();
    for (std::size_t n = 0; n < enough; ++n) {
      INFO(kind << ", first " << n << " of " << bytes.size() << " bytes");
      CHECK(refusal(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n))).find("photo") != std::string::npos);
    }
  }
}

TEST_CASE("changed bits give a picture or a refusal, never more", "[image][hostile]") {
  std::uint64_t state = 12345;
  const auto random = [&] { return state = state * 6364136223846793005ull + 1442695040888963407ull, state >> 33; };
  for (const Bytes& whole : {jpeg(gradient(40, 24)), png(gradient(40, 24)), bmp(8, 6, 24 * 6)})
    for (int i = 0; i < 1500; ++i) {
      Bytes b = whole;
      for (int k = 0; k < 1 + i % 3; ++k) b[random() % b.size()] ^= std::byte(1 << random() % 8);
      try {
        const Image image = decode_image(b, "photo");
        CHECK(static_cast<std::int64_t>(image.pixels.size()) == image.width * image.height * 3);
      } catch (const IoError&) {
      }
    }
}

TEST_CASE("bombs cost neither memory nor time", "[image][hostile]") {
  const long before = resident_kib();
  CHECK(!refusal(raw_png(60000, 60000, 8, 2, {"abc"})).empty());
  CHECK(!refusal(raw_png(16000, 16000, 8, 2, {"abc"})).empty());  // within the sides, over 64 megapixels
  CHECK(!refusal(bmp(20000, 20000, 12000)).empty());
  CHECK(!refusal(bmp(4000, 4000, 12000)).empty());  // 48 MB claimed, 12 KB there
  CHECK(!refusal(bmp(-5, 2147483647, 100)).empty());
  refusal(raw_png(32, 32, 8, 2, {}, {}, std::size_t{256} << 20));  // 3 KB of pixels, 256 MB in the stream: a picture or a refusal
  CHECK(resident_kib() - before < 64 * 1024);
  DecodeLimits few;
  few.max_pixels = 100;
  CHECK(refusal(png(gradient(11, 10)), few).find("100") != std::string::npos);
#ifdef MIEN_TEST_JPEGLIB
  DecodeLimits scans;
  scans.max_scans = 3;
  CHECK(!refusal(special_jpeg(40, 24, 3, JCS_RGB, true, 0), scans).empty());
#endif
  CHECK(!refusal({}).empty());
  CHECK(!refusal(bytes_of("GIF89a not read here")).empty());
  CHECK(!refusal(bytes_of("\xff\xd8\xff")).empty());
}

TEST_CASE("a picture that is written through a link leaves the link", "[image]") {
  const fs::path dir = temp_dir("links");
  const auto p = [&](const char* leaf) { return (dir / leaf).string(); };
  write_png(p("there.png"), gradient(2, 2));
  fs::create_symlink("there.png", p("link.png"));
  fs::create_symlink("new.jpg", p("link.jpg"));
  write_png(p("link.png"), gradient(3, 4));
  write_jpeg(p("link.jpg"), gradient(5, 6));
  CHECK(fs::is_symlink(p("link.png")));
  CHECK(fs::is_symlink(p("link.jpg")));
  CHECK(read_image(p("there.png")).height == 4);
  CHECK(read_image(p("new.jpg")).height == 6);
  if (fs::exists("/dev/full")) {
    fs::create_symlink("/dev/full", p("full.png"));
    CHECK_THROWS_AS(write_png(p("full.png"), gradient(2, 2)), IoError);
    CHECK(fs::is_symlink(p("full.png")));
  }
  CHECK(std::distance(fs::directory_iterator(dir), fs::directory_iterator()) == (fs::exists("/dev/full") ? 5 : 4));
  fs::remove_all(dir);
}

TEST_CASE("lists of pictures: files, folders in order, @LIST", "[image]") {
  const fs::path dir = temp_dir("list");
  fs::create_directories(dir / "b");
  for (const char* leaf : {"z.png", "a.png", "b/m.PNG"}) write_png((dir / leaf).string(), gradient(2, 2));
  std::ofstream(dir / "notes.txt") << "no picture";
  std::ofstream(dir / "list") << (dir / "z.png").string() << "\r\n\n" << (dir / "a.png").string() << "\n";
  const auto p = [&](const char* leaf) { return (dir / leaf).string(); };
  CHECK(list_images(dir.string()) == std::vector<std::string>{p("a.png"), p("b/m.PNG"), p("z.png")});
  CHECK(list_images(std::string("@") + p("list")) == std::vector<std::string>{p("z.png"), p("a.png")});
  CHECK(list_images(p("a.png")) == std::vector<std::string>{p("a.png")});
  for (const std::string& absent : {p("absent"), std::string("@") + p("absent")}) {
    try {
      list_images(absent);
      FAIL("listed what is not there");
    } catch (const IoError& e) {
      CHECK(e.kind() == IoKind::missing);
    }
  }
  fs::remove_all(dir);
}

}  // namespace mien::test
