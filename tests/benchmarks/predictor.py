"""How good predictions are: each record foretold from the others, and Stable Diffusion 1.5 on phones from published
figures of another of its parts.

    python tests/benchmarks/predictor.py --layers profiles/this-machine/FULL-SIZE.profile.json \\
        --record profiles/this-machine/predictor.json

`--layers` is a float32 profile of the full-size student with the KL decoder, 512 px: its text encoder and its decoder
are those of Stable Diffusion 1.5, its U-Net has BK_TINY of UNET multiply-accumulates. The phones' files have no peak
rate, for nobody publishes one; it is solved for from the decoder's published time, which is then no test, and the
U-Net's and the text encoder's are foretold.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from edgefusion.predict.command import checked
from edgefusion.predict.records import fittable, measured, profiles_in
from edgefusion.predict.roofline import Fitted, Peaks
from edgefusion.predict.work import Work, work_of
from edgefusion.spec import rooms
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.prediction import Published
from edgefusion.spec.profile import Profile
from edgefusion.spec.records import record_text

UNET, BK_TINY = 401.6, 242.8  # GMAC with attention, 512 px: tests/test_students.py
SOURCE = "qualcomm/ai-hub-models v0.47, stable_diffusion_v1_5 perf.yaml, w8a16, 512 px"
PHONES = {  # ms: text encoder, a U-Net step, decoder
    "snapdragon-8-gen-3": {"text_encoder": 2.33, "unet": 81.1, "decoder": 201.0},
    "snapdragon-8-elite": {"text_encoder": 1.75, "unet": 60.0, "decoder": 177.0},
}
MOST_TOPS = 1000.0
Time = Callable[[list[Work], Peaks], float]
ENGINE = "qnn"  # never measured here: all engines together stand in for it
BYTES = {"stream": 2 / 4, "weights": 1 / 4}  # w8a16 beside float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=Path("profiles"))
    parser.add_argument("--layers", type=Path)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    records = [measured(path, row) for path, row in profiles_in([options.records]) if fittable(row)]
    found = checked(records)
    if options.layers:
        ((_, layers),) = profiles_in([options.layers])
        found = found.model_copy(update={"published": tuple(published(Fitted(records), layers))})
    text = record_text(found)
    write_whole(options.record, text.encode()) if options.record else print(text)


def published(fitted: Fitted, layers: Profile) -> Iterator[Published]:
    """The other parts' times beside what is foretold once the decoder's is given."""
    for device, times in PHONES.items():
        bandwidth = rooms.load_device(device).bandwidth_gb_s.value
        if bandwidth is None:
            continue
        works = phone_work(layers)
        ways = {
            "efficiencies of the records": lambda rows, peaks: fitted.picture_ms(ENGINE, peaks, rows),
            "arithmetic or memory traffic at full peaks": ideal_ms,
        }
        for way, time_ms in ways.items():
            tops = solved(time_ms, works["decoder"], bandwidth, times["decoder"])
            makes = f"which makes the peak {tops:.1f} TOPS" if tops < MOST_TOPS else "which no peak reaches by this way"
            for part in ("unet", "text_encoder"):
                predicted_ms = time_ms(works[part], Peaks({"fp32": tops, "int8": tops}, bandwidth))
                yield Published(
                    what=f"Stable Diffusion 1.5, {part}, on {device}: {way}",
                    source=SOURCE,
                    given=f"the decoder's {times['decoder']} ms, {makes}; {bandwidth} GB/s",
                    published_ms=times[part],
                    predicted_ms=round(predicted_ms, 2),
                    error=round(predicted_ms / times[part] - 1, 3),
                )


def phone_work(layers: Profile) -> dict[str, list[Work]]:
    """One call of each part, as w8a16; the U-Net's with the operations and bytes of the whole one."""
    found: dict[str, list[Work]] = {}
    calls = {call.part: call for call in reversed(layers.calls)}
    for part, call in calls.items():
        grown = UNET / BK_TINY if part == "unet" else 1.0
        works = list(work_of(layers.model_copy(update={"calls": (call,)})))
        rows = []
        for work, layer in zip(works, call.layers, strict=True):
            stream = (layer.bytes_in or 0) + (layer.bytes_out or 0)
            moved = stream * BYTES["stream"] + (layer.bytes_weights or 0) * BYTES["weights"]
            rows.append(replace(work, precision="int8", operations=work.operations * grown, bytes_moved=moved * grown))
        found[part] = rows
    return found


def ideal_ms(works: list[Work], peaks: Peaks) -> float:
    """A roofline that reaches its roof, without overhead."""
    return sum(max(peaks.compute_ms(work), peaks.memory_ms(work)) for work in works)


def solved(time_ms: Time, works: list[Work], bandwidth: float, wanted_ms: float) -> float:
    """The peak at which these take `wanted_ms`; MOST_TOPS where no peak makes them so quick."""
    low, high = 0.1, MOST_TOPS
    for _ in range(40):
        middle = (low * high) ** 0.5
        quick = time_ms(works, Peaks({"fp32": middle, "int8": middle}, bandwidth)) < wanted_ms
        low, high = (low, middle) if quick else (middle, high)
    return high


if __name__ == "__main__":
    main()
