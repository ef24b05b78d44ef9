//! The arguments of a request, from its path and its query.

use axum::extract::{self, FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::http::Error;
use crate::model::manifest::quantity::Span;

/// The names in a request's path. Invalid input is reported as an ordinary error.
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match extract::Path::from_request_parts(parts, state).await {
            Ok(extract::Path(names)) => Ok(Named(names)),
            Err(why) => Err(Error(StatusCode::BAD_REQUEST, why.body_text())),
        }
    }
}

/// The options in a request's query. Invalid input is reported as an ordinary error.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(options)) => Ok(Asked(options)),
            Err(why) => Err(Error(StatusCode::BAD_REQUEST, why.body_text())),
        }
    }
}

/// `?wait=&timeout=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Waiting {
    pub(super) wait: bool,
    pub(super) timeout: Span,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting { wait: true, timeout: Span::secs(60) }
    }
}

/// `?follow=&lines=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Reading {
    pub(super) follow: bool,
    pub(super) lines: usize,
}

impl Default for Reading {
    fn default() -> Self {
        Reading { follow: false, lines: 100 }
    }
}
