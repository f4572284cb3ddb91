//! How a volume may be used: the access modes of the specification.
//!
//! Owns what each means here and which exclude each other. Must not know who asks.

use super::refusal::Refusal;

/// Access modes, by the numbers of `VolumeCapability.AccessMode.Mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessMode {
    SingleNodeWriter = 1,
    SingleNodeReaderOnly = 2,
    MultiNodeReaderOnly = 3,
    MultiNodeSingleWriter = 4,
    MultiNodeMultiWriter = 5,
    SingleNodeSingleWriter = 6,
    SingleNodeMultiWriter = 7,
}

impl AccessMode {
    /// The mode behind a number of the wire.
    pub(crate) fn read(field: &str, number: i32) -> Result<Self, Refusal> {
        const ALL: [AccessMode; 7] = [
            AccessMode::SingleNodeWriter,
            AccessMode::SingleNodeReaderOnly,
            AccessMode::MultiNodeReaderOnly,
            AccessMode::MultiNodeSingleWriter,
            AccessMode::MultiNodeMultiWriter,
            AccessMode::SingleNodeSingleWriter,
            AccessMode::SingleNodeMultiWriter,
        ];
        ALL.into_iter().find(|mode| *mode as i32 == number).ok_or_else(|| {
            let reason = "no access mode is named; write ReadWriteOnce, ReadWriteOncePod, \
                          ReadOnlyMany or ReadWriteMany as the volume's accessModes";
            Refusal::field(format!("{field}.access_mode.mode"), reason)
        })
    }

    /// True where whoever has it in one mode has it in the other, too: how many nodes there may be
    /// is nobody's business here.
    pub(crate) fn is_like(self, other: Self) -> bool {
        let is_alone = |mode| mode == Self::SingleNodeSingleWriter;
        self.is_read_only() == other.is_read_only() && is_alone(self) == is_alone(other)
    }

    /// True where nobody writes.
    pub(crate) const fn is_read_only(self) -> bool {
        matches!(self, Self::SingleNodeReaderOnly | Self::MultiNodeReaderOnly)
    }
}

/// Refuses modes of one volume that exclude each other: one pod alone, and anybody else.
pub(crate) fn check(field: &str, modes: &[AccessMode]) -> Result<(), Refusal> {
    let alone = AccessMode::SingleNodeSingleWriter;
    if modes.contains(&alone) && modes.iter().any(|mode| *mode != alone) {
        let reason = "ReadWriteOncePod excludes every other access mode; keep it alone, or leave \
                      it out";
        return Err(Refusal::field(field, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_of_the_specification_is_known_and_no_other() {
        for number in 1..=7 {
            assert_eq!(AccessMode::read("c", number).unwrap() as i32, number);
        }
        for number in [0, -1, 8] {
            let said = AccessMode::read("volume_capability", number).unwrap_err().message;
            assert!(said.starts_with("volume_capability.access_mode.mode: "), "{said}");
        }
    }

    #[test]
    fn modes_differ_in_who_writes_and_who_is_alone() {
        use AccessMode::{
            MultiNodeMultiWriter, MultiNodeReaderOnly, SingleNodeReaderOnly,
            SingleNodeSingleWriter, SingleNodeWriter,
        };
        assert!(SingleNodeWriter.is_like(MultiNodeMultiWriter));
        assert!(SingleNodeReaderOnly.is_like(MultiNodeReaderOnly));
        assert!(!SingleNodeWriter.is_like(SingleNodeSingleWriter));
        assert!(!SingleNodeWriter.is_like(SingleNodeReaderOnly));
    }

    #[test]
    fn one_pod_alone_excludes_the_rest() {
        use AccessMode::{MultiNodeMultiWriter, MultiNodeReaderOnly, SingleNodeSingleWriter};
        assert!(check("c", &[SingleNodeSingleWriter, SingleNodeSingleWriter]).is_ok());
        assert!(check("c", &[MultiNodeMultiWriter, MultiNodeReaderOnly]).is_ok());
        assert!(check("c", &[SingleNodeSingleWriter, MultiNodeReaderOnly]).is_err());
    }
}
