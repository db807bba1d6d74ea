//! Gzip streams of any number of members (RFC 1952).

use flate2::{Decompress, FlushDecompress, Status};

use super::Fault;
use super::stream::{Decoded, Input};

/// Window of deflate as a power of two.
const WINDOW_BITS: u8 = 15;

/// Where the decompression of a stream stands.
#[derive(Default)]
pub(super) struct Gzip {
    /// The member that is being decompressed.
    member: Option<Decompress>,
    member_count: u64,
}

impl Gzip {
    /// Decompresses some of the input.
    pub(super) fn decode(&mut self, input: &mut Input, target: &mut [u8]) -> Decoded {
        loop {
            let member = match &mut self.member {
                Some(member) => member,
                None => match self.begin(input) {
                    Ok(member) => self.member.insert(member),
                    Err(decoded) => return decoded,
                },
            };
            let (in_before, out_before) = (member.total_in(), member.total_out());
            let status = member.decompress(input.rest(), target, FlushDecompress::None);
            let used = (member.total_in() - in_before) as usize;
            let made = (member.total_out() - out_before) as usize;
            input.consume(used);
            match status {
                Err(_) => return Decoded::Damaged(made, Fault::Compressed),
                Ok(Status::StreamEnd) => self.member = None,
                Ok(_) if made == 0 && used == 0 => {
                    return Decoded::Need(input.rest().len() + 1);
                }
                Ok(_) => {}
            }
            if made > 0 {
                return Decoded::Bytes(made);
            }
        }
    }

    /// Begins the next member, behind padding of zeros.
    fn begin(&mut self, input: &mut Input) -> Result<Decompress, Decoded> {
        if self.member_count > 0 {
            let zeros = input.rest().iter().take_while(|byte| **byte == 0).count();
            input.consume(zeros);
        }
        match input.rest() {
            [] => Err(Decoded::Between),
            [0x1f, ..] => {
                self.member_count += 1;
                Ok(Decompress::new_gzip(WINDOW_BITS))
            }
            _ => Err(Decoded::Damaged(0, Fault::BehindCompressed)),
        }
    }
}
