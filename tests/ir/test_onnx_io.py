"""Loading and saving models: what becomes of bodies, interfaces, names and annotations."""

import gc

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper
from same_model import canonical

from ptq_opt.ir import DType, Graph, GraphError, ModelError, Tensor, load, save
from ptq_opt.ir.errors import OutOfMemory
from ptq_opt.ir.text import parse
from ptq_opt.ir.verify import verify

HEADER = '<ir_version: 10, opset_import: ["": 21]>\n'


def model_of(text: str) -> ModelProto:
    return onnx.parser.parse_model(text if text.lstrip().startswith("<") else HEADER + text)


def run(model: ModelProto, **feeds: object) -> list[np.ndarray]:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(model).run(None, {k: np.asarray(v) for k, v in feeds.items()})


class TestBodies:
    TEXT = """
        g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
            t = Mul (x, w)
            y = If (c) <
                then_branch = yes () => (float[2] a) { a = Add (t, w) },
                else_branch = no () => (float[2] b) {
                    b = If (c) <then_branch = deep () => (d) { d = Neg (t) },
                                else_branch = deeper () => (e) { e = Abs (x) }>
                }>
        }"""

    def test_what_a_body_reads_of_the_enclosing_graph_is_a_use_of_the_holding_node(self) -> None:
        graph = load(model_of(self.TEXT))
        holder = graph.find("y").producer
        assert [v.name for v in holder.captures] == ["t", "w", "x", "c"]
        assert (holder, -1) in holder.captures[0].uses

    def test_stand_ins_know_the_type_of_what_they_stand_for(self) -> None:
        graph = load(model_of(self.TEXT))
        body = graph.find("y").producer.bodies["then_branch"]
        assert {v.name: v.dtype for v in body.captures} == {"t": None, "w": DType.FLOAT}

    def test_the_file_comes_back(self) -> None:
        model = model_of(self.TEXT)
        assert canonical(save(load(model))) == canonical(model)

    def test_an_outer_value_may_be_replaced(self) -> None:
        graph = load(model_of(self.TEXT))
        relu = graph.add("Relu", [graph.find("x")])
        graph.replace(graph.find("t"), relu.output)
        graph.sweep()
        verify(graph)
        out = run(save(graph), c=True, x=np.float32([-1, 3]))
        assert out[0].tolist() == [1, 5]

    def test_a_body_may_return_an_outer_value(self) -> None:
        text = """
            g (bool c, float[2] x) => (float[2] y) {
                y = If (c) <then_branch = yes () => (x) { },
                            else_branch = no () => (float[2] b) { b = Neg (x) }>
            }"""
        out = run(save(load(model_of(text))), c=True, x=np.float32([1, 2]))
        assert out[0].tolist() == [1, 2]

    def test_names_in_a_body_never_shadow_outer_ones(self) -> None:
        graph = load(model_of(self.TEXT))
        body = graph.find("y").producer.bodies["else_branch"]
        body.outputs[0].name = "t"
        body.output_names = ["t"]
        saved = save(graph)
        assert run(saved, c=False, x=np.float32([-1, 3]))[0].tolist() == [1, 3]
        branch = saved.graph.node[1].attribute[1].g
        assert branch.output[0].name not in {"t", "w", "x", "c", "y"}

    def test_functions_have_operator_sets_of_their_own_and_call_each_other(self) -> None:
        model = model_of("""
            <ir_version: 10, opset_import: ["": 21, "my": 1]>
            g (float[2] x) => (float[2] y) { y = my.outer <alpha = 0.5> (x) }
            <domain: "my", opset_import: ["": 18, "my": 1]>
            outer <alpha> (a) => (b) { t = my.inner (a)  b = LeakyRelu <alpha: float = @alpha> (t) }
            <domain: "my", opset_import: ["": 18]>
            inner (a) => (b) { b = Neg (a) }""")
        graph = load(model)
        assert set(graph.info.functions) == {("my", "outer", ""), ("my", "inner", "")}
        assert graph.info.functions["my", "outer", ""].info.opset == 18
        assert canonical(save(graph)) == canonical(model)


class TestAttributes:
    def node(self, **attrs: object) -> onnx.NodeProto:
        node = helper.make_node("Custom", ["x"], ["y"], domain="my", **attrs)
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        graph = helper.make_graph([node], "g", [x], [helper.make_empty_tensor_value_info("y")])
        opsets = [helper.make_opsetid("my", 1)]
        self.model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return self.model.graph.node[0]

    def test_become_python_values(self) -> None:
        self.node(i=1, f=0.5, s="text", ints=[1, 2], floats=[1.0], strings=["a", "b"])
        attrs = load(self.model).find("y").producer.attrs
        assert attrs == {
            "i": 1,
            "f": 0.5,
            "s": "text",
            "ints": [1, 2],
            "floats": [1.0],
            "strings": ["a", "b"],
        }

    def test_text_that_is_not_utf8_stays_bytes(self) -> None:
        self.node(s=b"\xff", strings=[b"a", b"\xfe"])
        graph = load(self.model)
        assert graph.find("y").producer.attrs == {"s": b"\xff", "strings": [b"a", b"\xfe"]}
        assert canonical(save(graph)) == canonical(self.model)

    def test_tensors_are_lazy_constants(self) -> None:
        self.node(value=numpy_helper.from_array(np.int64([3]), "kept"))
        value = load(self.model).find("y").producer.attrs["value"]
        assert isinstance(value, Tensor)
        assert value.numpy().tolist() == [3]

    def test_empty_lists_keep_their_type(self) -> None:
        node = self.node()
        node.attribute.add(name="axes", type=AttributeProto.FLOATS)
        assert save(load(self.model)).graph.node[0].attribute[0].type == AttributeProto.FLOATS

    def test_kinds_without_a_python_form_come_back(self) -> None:
        node = self.node()
        sparse = helper.make_sparse_tensor(
            numpy_helper.from_array(np.float32([1]), "v"),
            numpy_helper.from_array(np.int64([0])),
            [3],
        )
        node.attribute.append(helper.make_attribute("sparse", sparse))
        node.attribute.append(
            helper.make_attribute("type", helper.make_tensor_type_proto(TensorProto.FLOAT, [1]))
        )
        node.attribute.add(name="many", type=AttributeProto.TENSORS).tensors.add(dims=[0])
        assert canonical(save(load(self.model))) == canonical(self.model)

    def test_notes_on_attributes_come_back(self) -> None:
        node = self.node(i=1)
        node.attribute[0].doc_string = "why"
        graph = load(self.model)
        assert graph.find("y").producer.attrs == {"i": 1}
        assert canonical(save(graph)) == canonical(self.model)

    def test_numpy_numbers_can_be_written(self) -> None:
        graph = parse("g (float x) => (float y) { y = LeakyRelu(x) }")
        graph.find("y").producer.attrs.update(
            alpha=np.float32(0.5), axis=np.int64(3), sizes=(np.int32(1), 2)
        )
        attrs = {a.name: helper.get_attribute_value(a) for a in save(graph).graph.node[0].attribute}
        assert attrs == {"alpha": 0.5, "axis": 3, "sizes": [1, 2]}

    def test_what_no_attribute_can_hold_is_an_error(self) -> None:
        graph = parse("g (float x) => (float y) { y = Relu(x) }")
        graph.find("y").producer.attrs["alpha"] = {"a": 1}
        with pytest.raises(ModelError, match="attribute 'alpha' cannot hold"):
            save(graph)


class TestInitializers:
    EARLY = """
        <ir_version: 3, opset_import: ["": 8]>
        g (float[2] x, float[2] w = {1, 2}) => (float[2] y) { y = Mul (x, w) }"""

    def test_those_of_early_files_are_constants_although_listed_as_inputs(self) -> None:
        graph = load(model_of(self.EARLY))
        assert [v.name for v in graph.inputs] == ["x"]
        assert graph.find("w").is_constant

    def test_early_files_list_all_of_them_as_inputs_again_new_ones_too(self) -> None:
        graph = load(model_of(self.EARLY))
        last = graph.find("y")
        added = graph.add("Add", [last, graph.constant(np.float32([1, 1]), "b")])
        graph.set_outputs([added.output], ["y"])
        added.output.dtype, added.output.shape = DType.FLOAT, (2,)
        saved = save(graph)
        assert {i.name for i in saved.graph.input} == {"x", "w", "b"}
        onnx.checker.check_model(saved, full_check=True)

    def test_bodies_of_early_files_get_constant_nodes(self) -> None:
        graph = load(
            model_of("""
                <ir_version: 3, opset_import: ["": 8]>
                g (bool c, float[2] x) => (float[2] y) {
                    y = If (c) <then_branch = yes () => (float[2] a) { a = Neg (x) },
                                else_branch = no () => (float[2] b) { b = Abs (x) }>
                }""")
        )
        body = graph.find("y").producer.bodies["then_branch"]
        add = body.add("Add", [body.outputs[0], body.constant(np.float32([1, 1]))])
        body.set_outputs([add.output], ["a"])
        saved = save(graph)
        assert [n.op_type for n in saved.graph.node[0].attribute[0].g.node] == [
            "Constant",
            "Neg",
            "Add",
        ]
        onnx.checker.check_model(saved)

    def test_later_files_let_the_caller_override_those_that_are_inputs(self) -> None:
        graph = load(model_of(self.EARLY.replace("3", "4", 1)))
        w = graph.inputs[1]
        assert w.overridable and not w.is_constant
        assert w.numpy().tolist() == [1, 2]
        assert [i.name for i in save(graph).graph.input] == ["x", "w"]

    def test_those_that_nobody_reads_stay_in_the_file(self) -> None:
        model = model_of("g (float x) => (float y) <float[2] idle = {1, 2}> { y = Relu (x) }")
        assert canonical(save(load(model))) == canonical(model)

    def test_sparse_ones_come_back_sparse_until_they_change(self) -> None:
        model = model_of("g (float[3] x) => (float[3] y) { y = Mul (x, w) }")
        sparse = helper.make_sparse_tensor(
            numpy_helper.from_array(np.float32([5]), "w"),
            numpy_helper.from_array(np.int64([1])),
            [3],
        )
        model.graph.sparse_initializer.append(sparse)
        graph = load(model)
        assert graph.find("w").numpy().tolist() == [0, 5, 0]
        assert canonical(save(graph)) == canonical(model)
        graph.find("w").const = Tensor(graph.find("w").numpy() * 2)
        assert numpy_helper.to_array(save(graph).graph.initializer[0]).tolist() == [0, 10, 0]


class TestInterface:
    def outputs(self, graph: Graph) -> list[str]:
        return [o.name for o in save(graph).graph.output]

    def test_names_of_outputs_stay_whatever_stands_behind_them(self) -> None:
        graph = parse("g (float x) => (float y) { t = Relu(x) y = Neg(t) }")
        graph.replace(graph.find("y"), graph.find("t"))
        graph.sweep()
        saved = save(graph)
        assert [(n.op_type, list(n.output)) for n in saved.graph.node] == [("Relu", ["y"])]
        assert saved.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT

    def test_symbols_of_outputs_stay_where_the_size_is_unknown(self) -> None:
        graph = parse("g (float[N,2] x) => (float[N,2] y, float[1,2] z) { y = Relu(x) z = Abs(x) }")
        for name in ("y", "z"):
            new = graph.add("Neg", [graph.inputs[0]]).output
            new.dtype, new.shape = DType.FLOAT, (None, 2)
            graph.replace(graph.find(name), new)
        y, z = (info.type.tensor_type.shape.dim for info in save(graph).graph.output)
        assert (y[0].dim_param, y[1].dim_value) == ("N", 2)
        assert (z[0].HasField("dim_value"), z[1].dim_value) == (False, 2)

    @pytest.mark.parametrize("behind", ["input", "constant", "other output"])
    def test_a_value_that_has_another_name_already_is_copied(self, behind: str) -> None:
        graph = parse("g (float x) => (float y, float z) { y = Relu(x) z = Neg(x) }")
        new = {
            "input": graph.inputs[0],
            "constant": graph.constant(np.float32(3)),
            "other output": graph.find("y"),
        }[behind]
        graph.replace(graph.find("z"), new)
        graph.sweep()
        saved = save(graph)
        onnx.checker.check_model(saved, full_check=True)
        assert [o.name for o in saved.graph.output] == ["y", "z"]
        assert [n.op_type for n in saved.graph.node] == ["Relu", "Identity"]
        expected = {"input": 2, "constant": 3, "other output": 2}[behind]
        assert run(saved, x=np.float32(2))[1] == expected

    def test_an_input_that_is_an_output_stays_so(self) -> None:
        model = model_of("g (float x) => (float x, float y) { y = Relu (x) }")
        assert canonical(save(load(model))) == canonical(model)

    def test_a_constant_that_is_an_output_stays_so(self) -> None:
        model = model_of("g (float x) => (float w, float y) <float w = {1}> { y = Add (x, w) }")
        assert canonical(save(load(model))) == canonical(model)

    def test_an_output_in_the_middle_stays_one(self) -> None:
        model = model_of("g (float x) => (float t, float y) { t = Relu (x) y = Neg (t) }")
        assert canonical(save(load(model))) == canonical(model)

    def test_an_unused_input_stays(self) -> None:
        model = model_of("g (float x, float idle) => (float y) { y = Relu (x) }")
        assert canonical(save(load(model))) == canonical(model)

    def test_two_inputs_of_one_name_are_an_error(self) -> None:
        graph = parse("g (float x, float z) => (float y) { y = Add(x, z) }")
        graph.inputs[1].name = "x"
        with pytest.raises(GraphError, match="two inputs or outputs called 'x'"):
            save(graph)


class TestNames:
    def test_equal_names_get_numbers(self) -> None:
        graph = parse("g (float x) => (float y) { [n] t = Relu(x) [m] u = Neg(t) [k] y = Abs(u) }")
        graph.find("u").name = "t"
        graph.order()[1].name = "n"
        saved = save(graph)
        assert [list(n.output) for n in saved.graph.node] == [["t"], ["t_1"], ["y"]]
        assert [n.name for n in saved.graph.node] == ["n", "n_1", "k"]

    def test_a_name_that_is_taken_by_the_interface_is_left_to_it(self) -> None:
        graph = parse("g (float x) => (float y) { t = Relu(x) y = Neg(t) }")
        graph.find("t").name = "y"
        assert [list(n.output) for n in save(graph).graph.node] == [["y_1"], ["y"]]

    def test_unnamed_nodes_and_values_get_names(self) -> None:
        graph = parse("g (float x) => (float y) { y = Neg(x) }")
        relu = graph.add("Relu", [graph.add("Abs", graph.inputs).output])
        graph.set_outputs([relu.output], ["y"])
        graph.sweep()
        saved = save(graph)
        assert [(n.name, list(n.output)) for n in saved.graph.node] == [
            ("Abs_1", ["Abs_1_out"]),
            ("Relu_1", ["y"]),
        ]

    def test_a_replacement_takes_the_name_of_the_tensor_it_stands_for(self) -> None:
        graph = parse("g (float x) => (float y) { t = Relu(x) y = Neg(t) }")
        graph.replace(graph.find("t"), graph.add("Abs", graph.inputs).output)
        graph.sweep()
        assert save(graph).graph.node[0].output[0] == "t"

    def test_results_that_are_left_out_stay_so(self) -> None:
        model = model_of('g (float[4] x, int64[1] k) => (int64[2] y) { "", y = TopK (x, k) }')
        assert list(save(load(model)).graph.node[0].output) == ["", "y"]

    def test_optional_operands_that_are_left_out_stay_so(self) -> None:
        model = model_of("g (float[2] x, float m) => (float[2] y) { y = Clip (x, , m) }")
        graph = load(model)
        assert graph.order()[0].inputs[1] is None
        assert canonical(save(graph)) == canonical(model)


class TestAnnotations:
    def test_everything_that_has_no_field_here_comes_back(self) -> None:
        model = model_of(
            "g (float[N,3] x) => (float[N,3] y) <float w = {1}> { t = Relu (x) y = Mul (t, w) }"
        )
        model.producer_name, model.doc_string, model.model_version = "someone", "about", 7
        model.metadata_props.add(key="a", value="b")
        model.configuration.add(name="two", num_devices=2)
        model.training_info.add().algorithm.name = "sgd"
        graph = model.graph
        graph.doc_string = "the graph"
        graph.metadata_props.add(key="c", value="d")
        graph.quantization_annotation.add(tensor_name="t").quant_parameter_tensor_names.add(
            key="SCALE_TENSOR", value="w"
        )
        graph.node[0].doc_string = "a node"
        graph.node[0].metadata_props.add(key="e", value="f")
        graph.node[1].device_configurations.add(configuration_id="two").sharding_spec.add(
            tensor_name="t"
        )
        graph.initializer[0].doc_string = "a weight"
        graph.input[0].doc_string = "an input"
        graph.input[0].type.denotation = "IMAGE"
        graph.input[0].type.tensor_type.shape.dim[0].denotation = "BATCH"
        graph.output[0].metadata_props.add(key="g", value="h")
        inner = graph.value_info.add(name="t", doc_string="an inner value")
        inner.type.CopyFrom(graph.input[0].type)
        assert canonical(save(load(model))) == canonical(model)

    def test_fields_of_future_versions_come_back(self) -> None:
        future = b"\xf8\x3f\x07\xfa\x3f\x03abc"  # field 1023: a number and three bytes
        model = model_of("g (float x) => (float y) { y = Relu (x) }")
        model.graph.node[0].MergeFromString(future)
        model.graph.MergeFromString(future)
        model.MergeFromString(future)
        saved = save(load(model))
        for proto in (saved, saved.graph, saved.graph.node[0]):
            unknown = type(proto)()
            unknown.CopyFrom(proto)
            assert future in unknown.SerializeToString()

    def test_documentation_need_not_be_utf8(self) -> None:
        model = model_of("g (float x) => (float y) { y = Relu (x) }")
        model.doc_string = model.graph.node[0].doc_string = "XYZ"
        model = ModelProto.FromString(model.SerializeToString().replace(b"XYZ", b"\xff\xfe\xfd"))
        assert save(load(model)).SerializeToString().count(b"\xff\xfe\xfd") == 2

    def test_names_must_be(self) -> None:
        data = model_of("g (float x) => (float XYZ) { XYZ = Relu (x) }").SerializeToString()
        with pytest.raises(ModelError, match="a name in it is not text"):
            save(load(ModelProto.FromString(data.replace(b"XYZ", b"\xff\xfe\xfd"))))

    def test_domains_must_be(self) -> None:
        model = model_of("g (float x) => (float y) { y = Relu (x) }")
        model.opset_import.add(domain="XYZ", version=1)
        data = model.SerializeToString().replace(b"XYZ", b"\xff\xfe\xfd")
        with pytest.raises(ModelError, match="a name in it is not text"):
            save(load(ModelProto.FromString(data)))

    def test_annotations_of_values_that_are_gone_are_dropped(self) -> None:
        model = model_of("g (float x) => (float y) { t = Relu (x) y = Neg (t) }")
        model.graph.quantization_annotation.add(tensor_name="t")
        model.graph.quantization_annotation.add(tensor_name="x")
        graph = load(model)
        graph.replace(graph.find("t"), graph.inputs[0])
        graph.sweep()
        assert [a.tensor_name for a in save(graph).graph.quantization_annotation] == ["x"]

    def test_types_other_than_tensors_come_back(self) -> None:
        model = model_of(
            "g (seq(float[N]) s, optional(float) o, map(int64, float) m) => (seq(float[N]) y)"
            " { y = Identity (s) }"
        )
        graph = load(model)
        assert graph.inputs[0].dtype is None
        assert canonical(save(graph)) == canonical(model)


class TestErrors:
    def test_a_missing_file(self, tmp_path) -> None:
        with pytest.raises(ModelError, match=r"cannot load '.*no\.onnx': No such file"):
            load(tmp_path / "no.onnx")

    def test_a_file_with_a_tensor_too_large_for_the_machine(self, tmp_path) -> None:
        model = model_of("g (float x) => (float y) { y = Relu (x) }")
        sparse = model.graph.sparse_initializer.add(dims=[10**7, 10**7])
        sparse.values.CopyFrom(numpy_helper.from_array(np.float32([5]), "w"))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.array([3])))
        path = tmp_path / "large.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(OutOfMemory, match=r"cannot load '.*large\.onnx': tensor 'w', made"):
            load(path)

    def test_a_truncated_file(self, tmp_path) -> None:
        data = model_of("g (float x) => (float y) { y = Relu (x) }").SerializeToString()
        path = tmp_path / "half.onnx"
        for size in range(len(data)):
            path.write_bytes(data[:size])
            with pytest.raises(ModelError, match=r"'.*half.onnx'.*(part of one|complete|no graph)"):
                load(path)

    def test_a_file_of_another_kind(self, tmp_path) -> None:
        path = tmp_path / "model.onnx"
        path.write_text("this is not a model")
        with pytest.raises(ModelError, match="not an ONNX model"):
            load(path)

    def test_an_operator_set_from_the_future(self) -> None:
        model = model_of('<ir_version: 10, opset_import: ["": 999]> g (float x) => (float x) { }')
        with pytest.raises(ModelError, match=r"operator set 999.*upgrade the onnx package"):
            load(model)

    def test_a_value_that_nothing_produces(self) -> None:
        with pytest.raises(ModelError, match="Relu 'y' reads 'z', which nothing"):
            load(model_of("g (float x) => (float y) { y = Relu (z) }"))

    def test_an_output_that_nothing_produces(self) -> None:
        with pytest.raises(ModelError, match="nothing produces the output 'z'"):
            load(model_of("g (float x) => (float z) { y = Relu (x) }"))

    def test_a_value_with_two_producers(self) -> None:
        with pytest.raises(ModelError, match="defines 'y' more than once"):
            load(model_of("g (float x) => (float y) { y = Relu (x) y = Neg (x) }"))

    def test_a_cycle(self) -> None:
        with pytest.raises(ModelError, match=r"cycle through (Add 'y'|Relu 'z')"):
            load(model_of("g (float x) => (float y) { y = Add (x, z) z = Relu (y) }"))

    def test_something_that_is_no_model(self) -> None:
        with pytest.raises(ModelError, match="cannot load a int"):
            load(3)

    def test_a_failed_load_leaves_garbage_collection_on(self) -> None:
        with pytest.raises(ModelError):
            load(model_of("g (float x) => (float y) { y = Relu (z) }"))
        assert gc.isenabled()


def test_operators_in_any_order_are_sorted() -> None:
    graph = load(model_of("g (float x) => (float y) { y = Neg (t) t = Relu (x) }"))
    assert [node.op for node in graph] == ["Relu", "Neg"]


class TestGraphSurgeon:
    def test_its_graphs_are_loaded(self) -> None:
        gs = pytest.importorskip("onnx_graphsurgeon")
        model = model_of("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul (x, w) }")
        graph = load(gs.import_onnx(model))
        assert run(save(graph), x=np.float32([3, 4]))[0].tolist() == [3, 8]

    def test_its_failures_are_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gs = pytest.importorskip("onnx_graphsurgeon")

        def fail(graph: object) -> None:
            raise UnboundLocalError("a variable")

        monkeypatch.setattr(gs, "export_onnx", fail)
        with pytest.raises(ModelError, match="cannot write its graph: a variable"):
            load(gs.Graph())

    def test_its_graphs_are_made(self) -> None:
        from ptq_opt.ir import from_gs, to_gs

        graph = parse("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }")
        theirs = to_gs(graph)
        assert [node.op for node in theirs.nodes] == ["Mul"]
        assert run(save(from_gs(theirs)), x=np.float32([3, 4]))[0].tolist() == [3, 8]
