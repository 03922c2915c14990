// The part of org.pytorch.executorch 1.4 that a generated TwoStep.kt uses, by its signatures. A part is run by the
// process at the other end of this one's standard input and output (tests/test_integrate_kotlin.py), in a real engine.
package org.pytorch.executorch

import java.io.Closeable
import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

val toEngine = DataOutputStream(System.out.buffered())
val fromEngine = DataInputStream(System.`in`.buffered())

enum class DType { INT32, INT64, FLOAT }

class Tensor private constructor(private val dtype: DType, private val shape: LongArray, private val data: ByteBuffer) {
    fun dtype(): DType = dtype

    fun shape(): LongArray = shape.copyOf()

    val dataAsFloatArray: FloatArray
        get() = data.duplicate().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().let { FloatArray(it.remaining()).also(it::get) }

    internal fun write(to: DataOutputStream) {
        to.writeUTF(dtype.name)
        to.writeInt(shape.size)
        shape.forEach(to::writeLong)
        to.write(data.array())
    }

    companion object {
        @JvmStatic
        fun fromBlob(data: FloatArray, shape: LongArray): Tensor =
            made(DType.FLOAT, shape, data.size, 4) { it.asFloatBuffer().put(data) }

        @JvmStatic
        fun fromBlob(data: LongArray, shape: LongArray): Tensor =
            made(DType.INT64, shape, data.size, 8) { it.asLongBuffer().put(data) }

        @JvmStatic
        fun fromBlob(data: IntArray, shape: LongArray): Tensor =
            made(DType.INT32, shape, data.size, 4) { it.asIntBuffer().put(data) }

        @JvmStatic
        fun numel(shape: LongArray): Long = shape.fold(1L, Long::times)

        private fun made(dtype: DType, shape: LongArray, size: Int, width: Int, put: (ByteBuffer) -> Unit): Tensor {
            require(numel(shape) == size.toLong()) { "$size elements for ${shape.toList()}" }
            return Tensor(dtype, shape, ByteBuffer.allocate(size * width).order(ByteOrder.LITTLE_ENDIAN).also(put))
        }

        internal fun read(from: DataInputStream): Tensor {
            val shape = LongArray(from.readInt()) { from.readLong() }
            val bytes = ByteArray(4 * numel(shape).toInt()).also(from::readFully)
            return Tensor(DType.FLOAT, shape, ByteBuffer.wrap(bytes))
        }
    }
}

class EValue private constructor(private val tensor: Tensor) {
    fun toTensor(): Tensor = tensor

    companion object {
        @JvmStatic
        fun from(tensor: Tensor): EValue = EValue(tensor)
    }
}

open class Module private constructor(private val path: String) : Closeable {
    private var alive = true

    open fun forward(vararg inputs: EValue): Array<EValue> {
        check(alive) { "Module has been destroyed" }
        toEngine.writeUTF("forward")
        toEngine.writeUTF(path)
        toEngine.writeInt(inputs.size)
        inputs.forEach { it.toTensor().write(toEngine) }
        toEngine.flush()
        return Array(fromEngine.readInt()) { EValue.from(Tensor.read(fromEngine)) }
    }

    open fun destroy() {
        check(alive) { "destroyed twice" }
        alive = false
        loaded -= 1
    }

    override fun close() = destroy()

    companion object {
        const val LOAD_MODE_FILE = 0
        const val LOAD_MODE_MMAP = 1
        var loaded = 0

        @JvmStatic
        @JvmOverloads
        fun load(modelPath: String?, loadMode: Int = LOAD_MODE_FILE, numThreads: Int = 0): Module {
            require(File(modelPath!!).isFile && loadMode == LOAD_MODE_MMAP && numThreads >= 0)
            check(++loaded == 1) { "two parts in memory" }
            return Module(modelPath)
        }
    }
}
