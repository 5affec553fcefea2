# The addon as it ships (node-gyp, prebuildify). Sources come from native/sources.json and flags
# from native/flags.json, which CMakeLists.txt reads too, so that the two builds cannot drift.
{
  "targets": [
    {
      "target_name": "embervm",
      "sources": [
        "<!@(node -p \"const s = require('./native/sources.json'); [...s.core, ...s.napi].join(' ')\")"
      ],
      "include_dirs": ["native"],
      "defines": [
        "<!@(node -p \"require('./native/flags.json').addon.join(' ')\")",
        "EMBERVM_VERSION=\"<!(node -p \"require('./package.json').version\")\""
      ],
      "cflags!": ["-O3"],
      "cflags_cc!": ["-O3", "-std=gnu++17", "-std=gnu++20", "-fno-rtti", "-fno-exceptions"],
      "cflags_cc": [
        "<!@(node -p \"const f = require('./native/flags.json'); [...f.compile, ...f.warn].join(' ')\")",
        "-O2",
        "-U_FORTIFY_SOURCE",
        "-D_FORTIFY_SOURCE=2",
        "-ffile-prefix-map=<(module_root_dir)=.",
        "-isystem",
        "<!(node -p \"require('node:path').resolve(require('node-addon-api').include_dir)\")"
      ],
      "ldflags": ["<!@(node -p \"require('./native/flags.json').link.join(' ')\")"]
    }
  ]
}
