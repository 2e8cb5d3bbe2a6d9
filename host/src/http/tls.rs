//! TLS for the listener: 1.2 and 1.3, with a certificate that can be replaced while it serves.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::limits::MAX_HANDSHAKE;
pub use crate::certificate::CertificateError;
use crate::{
    certificate::{certified_key, check_dates},
    private,
};

/// The listener's side of TLS, and the files that its certificate and key are read from.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    shown: Arc<Shown>,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Reads a certificate with its chain, and its key, from files in PEM. Logs a warning where the certificate has expired
    /// or is not valid yet: clients that check its dates refuse it.
    ///
    /// # Errors
    ///
    /// A [`CertificateError`] that names the file.
    pub fn read(certificate: PathBuf, key: PathBuf) -> Result<Self, CertificateError> {
        let provider = Arc::new(ring::default_provider());
        let certified = certified(&provider, &certificate, &key)?;
        if let Err(error) = check_dates(&certificate, &certified) {
            tracing::warn!(reason = %error, "clients will refuse the certificate");
        }
        let shown = Arc::new(Shown(RwLock::new(certified)));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(CertificateError::Protocol)?
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { certificate, key, shown, config: Arc::new(config) })
    }

    /// Reads a certificate and its key, and returns for how long the certificate is valid, where that is known.
    ///
    /// # Errors
    ///
    /// As [`reload`](Self::reload).
    #[cfg(feature = "cli")]
    pub(crate) fn check(certificate: &Path, key: &Path) -> Result<Option<Duration>, CertificateError> {
        let certified = certified_key(&ring::default_provider(), certificate, key)?;
        check_dates(certificate, &certified)
    }

    /// Reads the files again: handshakes from now on see what they hold. Connections that are open
    /// stay.
    ///
    /// # Errors
    ///
    /// The errors of [`read`](Self::read), [`CertificateError::Expired`] and [`CertificateError::NotYetValid`]. After an error
    /// the server keeps the certificate that it has.
    pub fn reload(&self) -> Result<(), CertificateError> {
        let certified = certified(self.config.crypto_provider(), &self.certificate, &self.key)?;
        check_dates(&self.certificate, &certified)?;
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.config.clone().into()
    }
}

/// The certificate that handshakes see.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Does the handshake. Returns `None` where it fails, takes longer than `most`, takes more than
/// [`MAX_HANDSHAKE`], or the server stops meanwhile.
pub(super) async fn accept(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    most: Duration,
    mut stopping: watch::Receiver<()>,
) -> Option<TlsStream<Metered>> {
    let handshake = tokio::select! {
        handshake = timeout(most, acceptor.accept(Metered { stream, left: Some(MAX_HANDSHAKE) })) => handshake,
        // Its sender is gone.
        _ = stopping.changed() => return None,
    };
    match handshake {
        Ok(Ok(mut stream)) => {
            stream.get_mut().0.left = None;
            Some(stream)
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(after = ?most, "handshake took too long");
            None
        }
    }
}

/// A stream that fails once the client has sent too much.
pub(super) struct Metered {
    stream: TcpStream,
    /// Bytes that it may still send; no maximum where `None`.
    left: Option<usize>,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(left) = &mut self.left {
            let read = buffer.filled().len() - before;
            *left = left.checked_sub(read).ok_or_else(|| io::Error::other("the handshake is too long"))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

fn certified(provider: &CryptoProvider, certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, CertificateError> {
    private::warn_if_others_can_read(key, "the TLS key");
    certified_key(provider, certificate, key)
}
