//! What a client is told when a request cannot be done: the error codes of the OCI distribution specification.

use bytes::Bytes;
use hyper::{
    HeaderMap, StatusCode,
    header::{HeaderName, HeaderValue},
};
use serde::Serialize;

/// The codes of the specification ("Error Codes"), and three of our own where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// The blob is not in the repository.
    BlobUnknown,
    /// An upload cannot go on like this.
    BlobUploadInvalid,
    /// There is no such upload.
    BlobUploadUnknown,
    /// The digest is malformed, or the content has another.
    DigestInvalid,
    /// The manifest refers to content that the repository does not have.
    ManifestBlobUnknown,
    /// The manifest is not one.
    ManifestInvalid,
    /// The manifest is not in the repository.
    ManifestUnknown,
    /// The name is not one of a repository.
    NameInvalid,
    /// There is no such repository.
    NameUnknown,
    /// The length is wrong, or over a limit.
    SizeInvalid,
    /// Who are you?
    Unauthorized,
    /// You may not.
    Denied,
    /// The registry does not do this.
    Unsupported,
    /// Come back later.
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    /// A tag has a wrong form.
    TagInvalid,
    /// A parameter of a list is wrong.
    PaginationNumberInvalid,
    /// The registry failed, or cannot serve now.
    Unavailable,
    /// The registry failed.
    Unknown,
}

impl Code {
    /// The text in the document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::TagInvalid => "TAG_INVALID",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The status that goes with it unless the case asks for another ([`Problem::status`]).
    fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestBlobUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown => StatusCode::NOT_FOUND,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::SizeInvalid
            | Self::TagInvalid
            | Self::PaginationNumberInvalid => StatusCode::BAD_REQUEST,
        }
    }
}

/// A request that was not done.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Of the response.
    pub status: StatusCode,
    /// For programs.
    pub code: Code,
    /// For people: what, where, and the allowed form or the next step.
    pub message: String,
    /// The subject, such as the digest that is missing.
    pub detail: Option<serde_json::Value>,
    /// Headers that the response has besides.
    pub headers: HeaderMap,
    /// Whether the rest of the request's body is not worth reading: the connection ends.
    pub hang_up: bool,
}

/// Result of everything that answers a request.
pub type Result<T> = std::result::Result<T, Box<Problem>>;

impl Problem {
    /// A problem with the status of its code.
    pub fn new(code: Code, message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            status: code.status(),
            code,
            message: message.into(),
            detail: None,
            headers: HeaderMap::new(),
            hang_up: false,
        })
    }

    /// Something of ours failed: the log has the reason, the client learns that it was not its fault.
    pub fn internal(what: &str, error: &dyn std::error::Error) -> Box<Self> {
        let mut reasons = vec![error.to_string()];
        let mut next = error.source();
        while let Some(source) = next {
            reasons.push(source.to_string());
            next = source.source();
        }
        tracing::error!(error = reasons.join(": "), "{what} failed");
        Self::new(Code::Unknown, format!("{what} failed; the log of the registry has the reason"))
    }

    /// With another status.
    #[must_use]
    pub fn status(mut self: Box<Self>, status: StatusCode) -> Box<Self> {
        self.status = status;
        self
    }

    /// With the subject.
    #[must_use]
    pub fn detail(mut self: Box<Self>, detail: serde_json::Value) -> Box<Self> {
        self.detail = Some(detail);
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self: Box<Self>, name: HeaderName, value: HeaderValue) -> Box<Self> {
        self.headers.append(name, value);
        self
    }

    /// The connection ends with the response.
    #[must_use]
    pub fn hang_up(mut self: Box<Self>) -> Box<Self> {
        self.hang_up = true;
        self
    }

    /// The document of the specification: `{"errors":[{"code","message","detail"}]}`.
    pub fn document(&self) -> Bytes {
        #[derive(Serialize)]
        struct One<'a> {
            code: &'static str,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            detail: Option<&'a serde_json::Value>,
        }
        #[derive(Serialize)]
        struct Document<'a> {
            errors: [One<'a>; 1],
        }
        let one = One { code: self.code.as_str(), message: &self.message, detail: self.detail.as_ref() };
        // Strings and a JSON value always serialise; an empty body would still carry the status.
        serde_json::to_vec(&Document { errors: [one] }).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_is_the_specifications() {
        let problem = Problem::new(Code::BlobUnknown, "no \"x\"").detail(serde_json::json!({"digest": "d"}));
        assert_eq!(
            problem.document(),
            r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no \"x\"","detail":{"digest":"d"}}]}"#
        );
        assert_eq!(problem.status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn names_agree_with_those_of_serde() {
        for code in [Code::BlobUnknown, Code::TooManyRequests, Code::PaginationNumberInvalid, Code::NameInvalid] {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{}\"", code.as_str()));
        }
    }
}
