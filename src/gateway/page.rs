//! The page: one file, compiled in, with its own script and style. Owns the headers that keep everything else out of it.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

const HTML: &str = include_str!("page.html");

/// Only the script and the style of the page itself run, only the gateway is asked, and nobody frames it.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        hash_of("script"),
        hash_of("style")
    )
});

/// The page as a response.
pub fn response() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Bytes::from_static(HTML.as_bytes())).into_response()
}

/// The hash of the text between `<tag>` and `</tag>`, as a content security policy names it.
fn hash_of(tag: &str) -> String {
    let (_, rest) = HTML.split_once(&format!("<{tag}>")).unwrap_or_default();
    let (text, _) = rest.split_once(&format!("</{tag}>")).unwrap_or_default();
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_and_nothing_from_elsewhere() {
        for tag in ["<script", "<style"] {
            assert_eq!(HTML.matches(tag).count(), 1, "{tag}");
        }
        for word in ["http://", "https://", "src=\"", "@import", "url(", " style=\"", "onclick", "innerHTML"] {
            let found = HTML.replace("\"https://\"", "").replace("http://www.w3.org/2000/svg", "");
            assert!(!found.contains(word), "{word}");
        }
        assert_ne!(hash_of("script"), hash_of("style"));
    }
}
