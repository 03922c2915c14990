// Runs what a generated TwoStep.kt has: the golden, the tokenizer on given prompts, a picture, and a picture given up.
import com.example.edgefusion.ClipTokenizer
import com.example.edgefusion.Spec
import com.example.edgefusion.TwoStep
import java.io.File
import org.pytorch.executorch.Module
import org.pytorch.executorch.fromEngine
import org.pytorch.executorch.toEngine

fun say(word: String, write: () -> Unit) {
    toEngine.writeUTF(word)
    write()
    toEngine.flush()
}

fun main(arguments: Array<String>) {
    val folder = File(arguments[0])
    val (start, end, pad) = arguments.slice(2..4).map { it.toLong() }
    val model = TwoStep(folder)
    for (measure in model.prove()) {
        say("measure") {
            toEngine.writeUTF(measure.stage)
            toEngine.writeDouble(measure.psnrDb)
            toEngine.writeDouble(measure.floorDb)
        }
    }
    val tokenizer = ClipTokenizer(File(folder, "tokenizer/tokenizer.json"), arguments[1].toInt(), start, end, pad)
    repeat(fromEngine.readInt()) {
        val prompt = String(ByteArray(fromEngine.readInt()).also(fromEngine::readFully))
        say("ids") { tokenizer.ids(prompt).forEach(toEngine::writeLong) }
    }
    val pixels = model.draw("a red apple", seed = 5, steps = 3)!!
    check(pixels.size == Spec.WIDTH * Spec.HEIGHT && pixels.all { it ushr 24 == 255 } && pixels.toSet().size > 2)
    check(model.draw("a red apple") { step, _ -> step < 1 } == null && Module.loaded == 0)
    say("done") {}
}
