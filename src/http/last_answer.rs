//! The last bytes of a connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::net::http1::response;
use crate::net::stream::Stream;

/// Writes the last answer of a connection and closes it.
pub async fn answer_and_close(stream: Stream, answer: &http::Response<bytes::Bytes>) {
    write_and_close(stream, &response::closing(answer)).await;
}

/// Writes the last bytes of a connection and closes it so that the client can read them. For a
/// moment, further bytes of the client are read and dropped: closing over unread bytes would reset
/// the connection, and the answer would be lost.
pub async fn write_and_close(mut stream: Stream, last: &[u8]) {
    const PATIENCE: Duration = Duration::from_secs(2);
    const MOST: usize = 256 * 1024;
    let _ = timeout(PATIENCE, async {
        stream.write_all(last).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        let mut scratch = vec![0; 1024];
        let mut discarded = 0;
        while discarded < MOST {
            match stream.read(&mut scratch).await? {
                0 => break,
                count => discarded += count,
            }
        }
        std::io::Result::Ok(())
    })
    .await;
}
