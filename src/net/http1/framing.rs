//! Finds the end of a message's body: RFC 9112 section 6, strict and without I/O.
//!
//! Used on both sides. A guard follows each client's body to know where the next head begins, and
//! an upstream's refusal is read to its end. A body that two readers could frame differently is an
//! error.

/// Longest chunk line (size and extensions) and trailer section that are followed.
const MAX_LINE: usize = 256;
const MAX_TRAILERS: usize = 8 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub enum BodyFraming {
    Done,
    Length(u64),
    Chunked(Chunks),
    /// Only an answer can be framed in this way.
    UntilClose,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    state: ChunkState,
    /// Bytes in the current line, or in the trailers so far.
    length: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum ChunkState {
    #[default]
    SizeFirst,
    Size(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// In the trailers: at the start of a line, inside one, and after its CR.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not framed correctly: {0}")]
pub struct FramingError(pub &'static str);

impl BodyFraming {
    pub fn is_done(&self) -> bool {
        match self {
            Self::Done | Self::Length(0) => true,
            Self::Chunked(chunks) => chunks.state == ChunkState::Done,
            Self::Length(_) | Self::UntilClose => false,
        }
    }

    /// Reads the next bytes. Returns how many of them belong to this body, and passes its payload
    /// to `payload`.
    pub fn advance(
        &mut self,
        bytes: &[u8],
        mut payload: impl FnMut(&[u8]),
    ) -> Result<usize, FramingError> {
        match self {
            Self::Done => Ok(0),
            Self::UntilClose => {
                payload(bytes);
                Ok(bytes.len())
            }
            Self::Length(remaining) => {
                let take = usize::try_from(*remaining).unwrap_or(usize::MAX).min(bytes.len());
                *remaining -= take as u64;
                payload(bytes.split_at(take).0);
                Ok(take)
            }
            Self::Chunked(chunks) => chunks.advance(bytes, payload),
        }
    }
}

impl Chunks {
    fn advance(
        &mut self,
        bytes: &[u8],
        mut payload: impl FnMut(&[u8]),
    ) -> Result<usize, FramingError> {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            if let ChunkState::Data(remaining) = self.state {
                let take = usize::try_from(remaining).unwrap_or(usize::MAX).min(rest.len());
                let (data, after) = rest.split_at(take);
                payload(data);
                rest = after;
                let left = remaining - take as u64;
                self.state = if left == 0 { ChunkState::DataCr } else { ChunkState::Data(left) };
                continue;
            }
            if self.state == ChunkState::Done {
                break;
            }
            self.step(byte)?;
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    fn step(&mut self, byte: u8) -> Result<(), FramingError> {
        use ChunkState::{
            Data, DataCr, DataLf, Done, EndLf, Extension, Size, SizeFirst, SizeLf, Trailer,
            TrailerLf, TrailerStart,
        };
        self.length += 1;
        let in_trailers = matches!(self.state, TrailerStart | Trailer | TrailerLf | EndLf);
        if self.length > if in_trailers { MAX_TRAILERS } else { MAX_LINE } {
            return Err(FramingError("a chunk line or a trailer section is too long"));
        }
        self.state = match (&self.state, byte) {
            (SizeFirst, digit) => Size(hex(digit)?),
            (Size(size), b'\r') => SizeLf(*size),
            (Size(size), b';' | b' ' | b'\t') => Extension(*size),
            (Size(size), digit) => {
                match size.checked_mul(16).and_then(|size| size.checked_add(hex(digit).ok()?)) {
                    Some(size) if size >> 60 == 0 => Size(size),
                    _ => return Err(FramingError("a chunk size is not a number, or is too large")),
                }
            }
            (Extension(size), b'\r') => SizeLf(*size),
            (Extension(_), b'\n') => {
                return Err(FramingError("a line ends without a carriage return"));
            }
            (SizeLf(0), b'\n') => {
                self.length = 0;
                TrailerStart
            }
            (SizeLf(size), b'\n') => {
                self.length = 0;
                Data(*size)
            }
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => {
                self.length = 0;
                SizeFirst
            }
            (TrailerStart, b'\r') => EndLf,
            (TrailerStart | Trailer, b'\n') => {
                return Err(FramingError("a line ends without a carriage return"));
            }
            (TrailerStart, b' ' | b'\t' | b':') => {
                return Err(FramingError("a trailer line does not begin with a name"));
            }
            (Trailer, b'\r') => TrailerLf,
            (Extension(_) | Trailer | TrailerStart, 0..=8 | 0xb..=0x1f | 0x7f) => {
                return Err(FramingError("a chunk line or a trailer has a control character"));
            }
            (Extension(size), _) => Extension(*size),
            (TrailerStart | Trailer, _) => Trailer,
            (TrailerLf, b'\n') => TrailerStart,
            (EndLf, b'\n') => Done,
            _ => return Err(FramingError("a chunk does not end where its size says")),
        };
        Ok(())
    }
}

fn hex(byte: u8) -> Result<u64, FramingError> {
    char::from(byte)
        .to_digit(16)
        .map(u64::from)
        .ok_or(FramingError("a chunk size is not a number, or is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(framing: &mut BodyFraming, bytes: &[u8]) -> Result<(usize, Vec<u8>), FramingError> {
        let mut payload = Vec::new();
        let used = framing.advance(bytes, |part| payload.extend_from_slice(part))?;
        Ok((used, payload))
    }

    #[test]
    fn a_chunked_body_ends_after_its_trailers_at_every_split() {
        let body = b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1";
        let end = body.len() - b"GET / HTTP/1.1".len();
        for split in 0..body.len() {
            let mut framing = BodyFraming::Chunked(Chunks::default());
            let (first, mut payload) = read(&mut framing, &body[..split]).unwrap();
            let (second, more) = read(&mut framing, &body[split..]).unwrap();
            payload.extend(more);
            assert_eq!(
                (first + second, payload.as_slice(), framing.is_done()),
                (end, &b"hello world"[..], true)
            );
        }
    }

    #[test]
    fn a_length_is_counted_down() {
        let mut framing = BodyFraming::Length(5);
        assert_eq!(read(&mut framing, b"abc").unwrap().0, 3);
        assert!(!framing.is_done());
        assert_eq!(read(&mut framing, b"deGET").unwrap(), (2, b"de".to_vec()));
        assert!(framing.is_done());
    }

    #[test]
    fn bodies_that_two_readers_could_frame_differently_are_errors() {
        let long = format!("5;{}\r\n", "x".repeat(300));
        for bad in [
            &b"5\nhello"[..],
            b"x\r\n",
            b"\r\n",
            b"-1\r\n",
            b"5\r\nhelloX",
            b"5\r\nhello\n",
            b"0\r\nA: b\n",
            b"0\r\nA: b\r\n c\r\n",
            b"0\r\n: b\r\n",
            b"0\r\nA: \0\r\n",
            b"5;a\0b\r\n",
            b"fffffffffffffffff\r\n",
            long.as_bytes(),
            b"5\r \n",
        ] {
            assert!(
                read(&mut BodyFraming::Chunked(Chunks::default()), bad).is_err(),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    #[test]
    fn a_chunk_line_has_one_form_and_a_bounded_length() {
        let read_all = |bytes: &[u8]| {
            let mut framing = BodyFraming::Chunked(Chunks::default());
            read(&mut framing, bytes).map(|(_, payload)| (payload.len(), framing.is_done())).ok()
        };
        let padded = |extension: usize| {
            [b"1;".to_vec(), vec![b'x'; extension], b"\r\na\r\n0\r\n\r\n".to_vec()].concat()
        };
        for (bytes, expected) in [
            (b"0\r\n\r\n".to_vec(), Some((0, true))),
            (b"1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n".to_vec(), Some((26, true))),
            (b"1;a=b\r\na\r\n0\r\n\r\n".to_vec(), Some((1, true))),
            (b"1;a\na\r\n0\r\n\r\n".to_vec(), None),
            (b"1\na\r\n0\r\n\r\n".to_vec(), None),
            (b"\r\n".to_vec(), None),
            (b"g\r\n".to_vec(), None),
            (b"1\r\nab".to_vec(), None),
            // The line has 256 bytes with its end, and then one more.
            (padded(MAX_LINE - 4), Some((1, true))),
            (padded(MAX_LINE - 3), None),
        ] {
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(read_all(&bytes), expected, "{shown:?}");
        }
    }
}
