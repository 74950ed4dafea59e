"""The C header of a library."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.deploy.c.passes import Passes, Port
from tombola.deploy.c.processor import Processor
from tombola.deploy.c.runtime import ABI, Status


def header(network: Passes, name: str, processor: Processor, version: str) -> str:
    """The text; `version`: Tombola's."""
    large = name.upper()
    needs = f"; it needs {' '.join(processor.needs)}" if processor.needs else ""
    codes = ",\n".join(f"    {large}_{status.name} = {status.value}" for status in Status)
    fixed = "any batch" if network.batch is None else f"a batch of {network.batch} alone"
    return f"""\
/* A network as a library, written by Tombola {version} for {processor.architecture} ({processor.cpu}){needs}.
 *
 * inputs, of one example, for {fixed}, float32, the last axis contiguous:
{_listed(network.inputs)}
 * outputs:
{_listed(network.outputs)}
 *
 * Make a context (once), run it as often as you like, destroy it. Nothing is allocated while it runs. The weights are
 * shared by all contexts; a context serves one calling thread at a time, and says {large}_BUSY to a second: make one
 * for each thread. Make it after a fork, not before. Inputs and outputs do not overlap.
 */
#ifndef {large}_H
#define {large}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {large}_ABI {ABI}
#define {large}_INPUTS {len(network.inputs)}
#define {large}_OUTPUTS {len(network.outputs)}
#define {large}_THREADS_MOST {network.threads} /* the most that a context can have */

enum {name}_status {{
{codes}
}};

typedef struct {name}_context {name}_context;
typedef struct {{ const float *data; size_t size; }} {name}_input; /* size: floats, batch times that of one example */
typedef struct {{ float *data; size_t size; }} {name}_output;

int32_t {name}_abi(void); /* {large}_ABI of the library that is loaded: compare them */
int32_t {name}_inputs(void);
int32_t {name}_outputs(void);
int32_t {name}_threads(void);
size_t {name}_input_size(int32_t index); /* floats of one example; 0: there is no such input */
size_t {name}_output_size(int32_t index);
const char *{name}_message(int32_t status);

int32_t {name}_create(int32_t threads, {name}_context **context);
int32_t {name}_run({name}_context *context, size_t batch, const {name}_input *inputs, int32_t input_count,
                   const {name}_output *outputs, int32_t output_count);
void {name}_destroy({name}_context *context); /* null: nothing is done */

#ifdef __cplusplus
}}
#endif
#endif
"""


def _listed(ports: Sequence[Port]) -> str:
    return "\n".join(
        f" *   {i}: {_plain(port.name)} ({', '.join(map(str, port.shape))}): {port.size} floats"
        for i, port in enumerate(ports)
    )


def _plain(name: str) -> str:
    """A name that cannot end a comment."""
    return "".join(c for c in name if c.isalnum() or c in "_ .")
