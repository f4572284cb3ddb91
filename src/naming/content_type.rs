//! The `Content-Type` of a file, by its name.
//!
//! Owns the guess and the type of directory markers. Must not know a file's bytes: a type by
//! content would need them before the upload starts.

use super::key::Key;

/// The type of directory markers, which s3fs, geesefs and the consoles of several stores know.
pub const DIRECTORY_CONTENT_TYPE: &str = "application/x-directory";

/// What RFC 9110 says of bytes that nobody knows more about.
const UNKNOWN: &str = "application/octet-stream";

/// The type that the key's extension says; markers are [`DIRECTORY_CONTENT_TYPE`].
pub fn content_type(key: &Key) -> &'static str {
    if key.is_marker() {
        return DIRECTORY_CONTENT_TYPE;
    }
    // Only the last component: a dot in a directory's name is no extension.
    let name = key.as_str().rsplit('/').next().unwrap_or_default();
    mime_guess::from_path(name).first_raw().unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_says_the_type() {
        let cases = [
            ("page.html", "text/html"),
            ("a/b/photo.JPG", "image/jpeg"),
            ("notes.txt", "text/plain"),
            ("table.csv", "text/csv"),
            ("meta.json", "application/json"),
            ("site.d/file", UNKNOWN),
            ("backup.html/core", UNKNOWN),
            ("weights.safetensors", UNKNOWN),
            ("README", UNKNOWN),
            (".html", UNKNOWN),
            ("", UNKNOWN),
            ("photos/", DIRECTORY_CONTENT_TYPE),
        ];
        for (key, expected) in cases {
            assert_eq!(content_type(&Key::from(key)), expected, "{key}");
        }
    }
}
