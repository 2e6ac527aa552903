#!/usr/bin/env bash
# Builds qwen2.5-0.5b_int4_seq512_bm1684x_2dev: 110 steps, one after the other, each in a folder of its own.
# `hf2bmodel build` runs the same commands, in parallel, and only those whose result would change.
set -euo pipefail

exporter() { env PATH=/opt/hf2bmodel/.venv/bin:"$PATH" "$@"; }
compiler() { env PATH=/opt/hf2bmodel/.venv-tpu-mlir/bin:"$PATH" OMP_NUM_THREADS=1 "$@"; }
begin() { echo "== $1"; rm -rf "work/$1"; mkdir -p "work/$1"; cd "work/$1"; }
end() { cd ../..; }

mkdir -p /builds/qwen2.5-0.5b_int4_seq512_bm1684x_2dev
cd /builds/qwen2.5-0.5b_int4_seq512_bm1684x_2dev

begin trace
exporter python -m exporters trace --model /models/qwen2.5-0.5b --seq-length 512 --devices 2
end

begin parity
exporter python \
  -m exporters parity \
  --model /models/qwen2.5-0.5b \
  --graphs .. \
  --prompt '你好，请介绍一下你自己。' \
  --seq-length 512 \
  --devices 2 \
  --positions 81
end

begin transform.embedding
compiler python3 -I /opt/hf2bmodel/compile/rebind.py shrink ../trace/embedding.onnx 151936
compiler model_transform.py \
  --model_name embedding \
  --model_def small.onnx \
  --mlir embedding.mlir \
  --do_onnx_sim= \
  --not_inference
compiler python3 -I /opt/hf2bmodel/compile/rebind.py seal embedding ../trace/embedding.onnx small.npz
end

begin transform.embedding_cache
compiler python3 -I /opt/hf2bmodel/compile/rebind.py shrink ../trace/embedding_cache.onnx 151936
compiler model_transform.py \
  --model_name embedding_cache \
  --model_def small.onnx \
  --mlir embedding_cache.mlir \
  --do_onnx_sim= \
  --not_inference
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py seal embedding_cache ../trace/embedding_cache.onnx small.npz
end

begin transform.lm_head
compiler python3 -I /opt/hf2bmodel/compile/rebind.py shrink ../trace/lm_head.onnx 151936
compiler model_transform.py \
  --model_name lm_head \
  --model_def small.onnx \
  --mlir lm_head.mlir \
  --do_onnx_sim= \
  --not_inference
compiler python3 -I /opt/hf2bmodel/compile/rebind.py seal lm_head ../trace/lm_head.onnx small.npz
end

begin bind.embedding
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group embedding
end

begin embedding
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.embedding ../bind.embedding/embedding.onnx \
  ../bind.embedding/weights.npz embedding -- model_transform.py \
  --model_name embedding \
  --model_def ../bind.embedding/embedding.onnx \
  --mlir embedding.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir embedding.mlir \
  --model embedding.bmodel \
  --chip bm1684x \
  --quantize BF16 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py embedding.bmodel
end

begin embedding_cache
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.embedding_cache \
  ../bind.embedding/embedding_cache.onnx ../bind.embedding/weights.npz embedding_cache -- \
  model_transform.py \
  --model_name embedding_cache \
  --model_def ../bind.embedding/embedding_cache.onnx \
  --mlir embedding_cache.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir embedding_cache.mlir \
  --model embedding_cache.bmodel \
  --chip bm1684x \
  --quantize BF16 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py embedding_cache.bmodel
end

begin join.embedding
exporter python \
  -m compile.combine \
  --bare embedding.bmodel ../embedding/embedding.bmodel ../embedding_cache/embedding_cache.bmodel
end

begin bind.head
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group head
end

begin lm_head
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.lm_head ../bind.head/lm_head.onnx \
  ../bind.head/weights.npz lm_head -- model_transform.py \
  --model_name lm_head \
  --model_def ../bind.head/lm_head.onnx \
  --mlir lm_head.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir lm_head.mlir \
  --model lm_head.bmodel \
  --chip bm1684x \
  --quantize W8BF16 \
  --q_group_size 128 \
  --quant_input \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py lm_head.bmodel
end

begin bind.layer_0
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_0
end

begin transform.block.0
compiler model_transform.py \
  --model_name block \
  --model_def ../bind.layer_0/block_0.onnx \
  --mlir block.mlir \
  --do_onnx_sim= \
  --not_inference
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py seal block ../bind.layer_0/block_0.onnx \
  ../bind.layer_0/weights.npz
end

begin transform.block_cache.0
compiler model_transform.py \
  --model_name block_cache \
  --model_def ../bind.layer_0/block_cache_0.onnx \
  --mlir block_cache.mlir \
  --do_onnx_sim= \
  --not_inference
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py seal block_cache ../bind.layer_0/block_cache_0.onnx \
  ../bind.layer_0/weights.npz
end

begin block_0
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_0/block_0.onnx \
  ../bind.layer_0/weights.npz block_0 -- model_transform.py \
  --model_name block_0 \
  --model_def ../bind.layer_0/block_0.onnx \
  --mlir block_0.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_0.mlir \
  --model block_0.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_0.bmodel
end

begin block_cache_0
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_0/block_cache_0.onnx ../bind.layer_0/weights.npz block_cache_0 -- model_transform.py \
  --model_name block_cache_0 \
  --model_def ../bind.layer_0/block_cache_0.onnx \
  --mlir block_cache_0.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_0.mlir \
  --model block_cache_0.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_0.bmodel
end

begin join.layer_0
exporter python \
  -m compile.combine \
  --bare layer_0.bmodel ../block_cache_0/block_cache_0.bmodel ../block_0/block_0.bmodel
end

begin bind.layer_1
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_1
end

begin block_1
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_1/block_1.onnx \
  ../bind.layer_1/weights.npz block_1 -- model_transform.py \
  --model_name block_1 \
  --model_def ../bind.layer_1/block_1.onnx \
  --mlir block_1.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_1.mlir \
  --model block_1.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_1.bmodel
end

begin block_cache_1
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_1/block_cache_1.onnx ../bind.layer_1/weights.npz block_cache_1 -- model_transform.py \
  --model_name block_cache_1 \
  --model_def ../bind.layer_1/block_cache_1.onnx \
  --mlir block_cache_1.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_1.mlir \
  --model block_cache_1.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_1.bmodel
end

begin join.layer_1
exporter python \
  -m compile.combine \
  --bare layer_1.bmodel ../block_cache_1/block_cache_1.bmodel ../block_1/block_1.bmodel
end

begin bind.layer_2
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_2
end

begin block_2
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_2/block_2.onnx \
  ../bind.layer_2/weights.npz block_2 -- model_transform.py \
  --model_name block_2 \
  --model_def ../bind.layer_2/block_2.onnx \
  --mlir block_2.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_2.mlir \
  --model block_2.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_2.bmodel
end

begin block_cache_2
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_2/block_cache_2.onnx ../bind.layer_2/weights.npz block_cache_2 -- model_transform.py \
  --model_name block_cache_2 \
  --model_def ../bind.layer_2/block_cache_2.onnx \
  --mlir block_cache_2.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_2.mlir \
  --model block_cache_2.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_2.bmodel
end

begin join.layer_2
exporter python \
  -m compile.combine \
  --bare layer_2.bmodel ../block_cache_2/block_cache_2.bmodel ../block_2/block_2.bmodel
end

begin bind.layer_3
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_3
end

begin block_3
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_3/block_3.onnx \
  ../bind.layer_3/weights.npz block_3 -- model_transform.py \
  --model_name block_3 \
  --model_def ../bind.layer_3/block_3.onnx \
  --mlir block_3.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_3.mlir \
  --model block_3.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_3.bmodel
end

begin block_cache_3
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_3/block_cache_3.onnx ../bind.layer_3/weights.npz block_cache_3 -- model_transform.py \
  --model_name block_cache_3 \
  --model_def ../bind.layer_3/block_cache_3.onnx \
  --mlir block_cache_3.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_3.mlir \
  --model block_cache_3.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_3.bmodel
end

begin join.layer_3
exporter python \
  -m compile.combine \
  --bare layer_3.bmodel ../block_cache_3/block_cache_3.bmodel ../block_3/block_3.bmodel
end

begin bind.layer_4
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_4
end

begin block_4
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_4/block_4.onnx \
  ../bind.layer_4/weights.npz block_4 -- model_transform.py \
  --model_name block_4 \
  --model_def ../bind.layer_4/block_4.onnx \
  --mlir block_4.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_4.mlir \
  --model block_4.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_4.bmodel
end

begin block_cache_4
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_4/block_cache_4.onnx ../bind.layer_4/weights.npz block_cache_4 -- model_transform.py \
  --model_name block_cache_4 \
  --model_def ../bind.layer_4/block_cache_4.onnx \
  --mlir block_cache_4.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_4.mlir \
  --model block_cache_4.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_4.bmodel
end

begin join.layer_4
exporter python \
  -m compile.combine \
  --bare layer_4.bmodel ../block_cache_4/block_cache_4.bmodel ../block_4/block_4.bmodel
end

begin bind.layer_5
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_5
end

begin block_5
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_5/block_5.onnx \
  ../bind.layer_5/weights.npz block_5 -- model_transform.py \
  --model_name block_5 \
  --model_def ../bind.layer_5/block_5.onnx \
  --mlir block_5.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_5.mlir \
  --model block_5.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_5.bmodel
end

begin block_cache_5
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_5/block_cache_5.onnx ../bind.layer_5/weights.npz block_cache_5 -- model_transform.py \
  --model_name block_cache_5 \
  --model_def ../bind.layer_5/block_cache_5.onnx \
  --mlir block_cache_5.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_5.mlir \
  --model block_cache_5.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_5.bmodel
end

begin join.layer_5
exporter python \
  -m compile.combine \
  --bare layer_5.bmodel ../block_cache_5/block_cache_5.bmodel ../block_5/block_5.bmodel
end

begin bind.layer_6
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_6
end

begin block_6
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_6/block_6.onnx \
  ../bind.layer_6/weights.npz block_6 -- model_transform.py \
  --model_name block_6 \
  --model_def ../bind.layer_6/block_6.onnx \
  --mlir block_6.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_6.mlir \
  --model block_6.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_6.bmodel
end

begin block_cache_6
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_6/block_cache_6.onnx ../bind.layer_6/weights.npz block_cache_6 -- model_transform.py \
  --model_name block_cache_6 \
  --model_def ../bind.layer_6/block_cache_6.onnx \
  --mlir block_cache_6.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_6.mlir \
  --model block_cache_6.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_6.bmodel
end

begin join.layer_6
exporter python \
  -m compile.combine \
  --bare layer_6.bmodel ../block_cache_6/block_cache_6.bmodel ../block_6/block_6.bmodel
end

begin bind.layer_7
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_7
end

begin block_7
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_7/block_7.onnx \
  ../bind.layer_7/weights.npz block_7 -- model_transform.py \
  --model_name block_7 \
  --model_def ../bind.layer_7/block_7.onnx \
  --mlir block_7.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_7.mlir \
  --model block_7.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_7.bmodel
end

begin block_cache_7
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_7/block_cache_7.onnx ../bind.layer_7/weights.npz block_cache_7 -- model_transform.py \
  --model_name block_cache_7 \
  --model_def ../bind.layer_7/block_cache_7.onnx \
  --mlir block_cache_7.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_7.mlir \
  --model block_cache_7.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_7.bmodel
end

begin join.layer_7
exporter python \
  -m compile.combine \
  --bare layer_7.bmodel ../block_cache_7/block_cache_7.bmodel ../block_7/block_7.bmodel
end

begin bind.layer_8
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_8
end

begin block_8
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_8/block_8.onnx \
  ../bind.layer_8/weights.npz block_8 -- model_transform.py \
  --model_name block_8 \
  --model_def ../bind.layer_8/block_8.onnx \
  --mlir block_8.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_8.mlir \
  --model block_8.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_8.bmodel
end

begin block_cache_8
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_8/block_cache_8.onnx ../bind.layer_8/weights.npz block_cache_8 -- model_transform.py \
  --model_name block_cache_8 \
  --model_def ../bind.layer_8/block_cache_8.onnx \
  --mlir block_cache_8.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_8.mlir \
  --model block_cache_8.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_8.bmodel
end

begin join.layer_8
exporter python \
  -m compile.combine \
  --bare layer_8.bmodel ../block_cache_8/block_cache_8.bmodel ../block_8/block_8.bmodel
end

begin bind.layer_9
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_9
end

begin block_9
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_9/block_9.onnx \
  ../bind.layer_9/weights.npz block_9 -- model_transform.py \
  --model_name block_9 \
  --model_def ../bind.layer_9/block_9.onnx \
  --mlir block_9.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_9.mlir \
  --model block_9.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_9.bmodel
end

begin block_cache_9
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_9/block_cache_9.onnx ../bind.layer_9/weights.npz block_cache_9 -- model_transform.py \
  --model_name block_cache_9 \
  --model_def ../bind.layer_9/block_cache_9.onnx \
  --mlir block_cache_9.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_9.mlir \
  --model block_cache_9.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_9.bmodel
end

begin join.layer_9
exporter python \
  -m compile.combine \
  --bare layer_9.bmodel ../block_cache_9/block_cache_9.bmodel ../block_9/block_9.bmodel
end

begin bind.layer_10
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_10
end

begin block_10
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_10/block_10.onnx \
  ../bind.layer_10/weights.npz block_10 -- model_transform.py \
  --model_name block_10 \
  --model_def ../bind.layer_10/block_10.onnx \
  --mlir block_10.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_10.mlir \
  --model block_10.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_10.bmodel
end

begin block_cache_10
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_10/block_cache_10.onnx ../bind.layer_10/weights.npz block_cache_10 -- \
  model_transform.py \
  --model_name block_cache_10 \
  --model_def ../bind.layer_10/block_cache_10.onnx \
  --mlir block_cache_10.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_10.mlir \
  --model block_cache_10.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_10.bmodel
end

begin join.layer_10
exporter python \
  -m compile.combine \
  --bare layer_10.bmodel ../block_cache_10/block_cache_10.bmodel ../block_10/block_10.bmodel
end

begin bind.layer_11
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_11
end

begin block_11
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_11/block_11.onnx \
  ../bind.layer_11/weights.npz block_11 -- model_transform.py \
  --model_name block_11 \
  --model_def ../bind.layer_11/block_11.onnx \
  --mlir block_11.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_11.mlir \
  --model block_11.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_11.bmodel
end

begin block_cache_11
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_11/block_cache_11.onnx ../bind.layer_11/weights.npz block_cache_11 -- \
  model_transform.py \
  --model_name block_cache_11 \
  --model_def ../bind.layer_11/block_cache_11.onnx \
  --mlir block_cache_11.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_11.mlir \
  --model block_cache_11.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_11.bmodel
end

begin join.layer_11
exporter python \
  -m compile.combine \
  --bare layer_11.bmodel ../block_cache_11/block_cache_11.bmodel ../block_11/block_11.bmodel
end

begin bind.layer_12
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_12
end

begin block_12
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_12/block_12.onnx \
  ../bind.layer_12/weights.npz block_12 -- model_transform.py \
  --model_name block_12 \
  --model_def ../bind.layer_12/block_12.onnx \
  --mlir block_12.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_12.mlir \
  --model block_12.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_12.bmodel
end

begin block_cache_12
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_12/block_cache_12.onnx ../bind.layer_12/weights.npz block_cache_12 -- \
  model_transform.py \
  --model_name block_cache_12 \
  --model_def ../bind.layer_12/block_cache_12.onnx \
  --mlir block_cache_12.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_12.mlir \
  --model block_cache_12.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_12.bmodel
end

begin join.layer_12
exporter python \
  -m compile.combine \
  --bare layer_12.bmodel ../block_cache_12/block_cache_12.bmodel ../block_12/block_12.bmodel
end

begin bind.layer_13
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_13
end

begin block_13
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_13/block_13.onnx \
  ../bind.layer_13/weights.npz block_13 -- model_transform.py \
  --model_name block_13 \
  --model_def ../bind.layer_13/block_13.onnx \
  --mlir block_13.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_13.mlir \
  --model block_13.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_13.bmodel
end

begin block_cache_13
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_13/block_cache_13.onnx ../bind.layer_13/weights.npz block_cache_13 -- \
  model_transform.py \
  --model_name block_cache_13 \
  --model_def ../bind.layer_13/block_cache_13.onnx \
  --mlir block_cache_13.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_13.mlir \
  --model block_cache_13.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_13.bmodel
end

begin join.layer_13
exporter python \
  -m compile.combine \
  --bare layer_13.bmodel ../block_cache_13/block_cache_13.bmodel ../block_13/block_13.bmodel
end

begin bind.layer_14
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_14
end

begin block_14
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_14/block_14.onnx \
  ../bind.layer_14/weights.npz block_14 -- model_transform.py \
  --model_name block_14 \
  --model_def ../bind.layer_14/block_14.onnx \
  --mlir block_14.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_14.mlir \
  --model block_14.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_14.bmodel
end

begin block_cache_14
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_14/block_cache_14.onnx ../bind.layer_14/weights.npz block_cache_14 -- \
  model_transform.py \
  --model_name block_cache_14 \
  --model_def ../bind.layer_14/block_cache_14.onnx \
  --mlir block_cache_14.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_14.mlir \
  --model block_cache_14.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_14.bmodel
end

begin join.layer_14
exporter python \
  -m compile.combine \
  --bare layer_14.bmodel ../block_cache_14/block_cache_14.bmodel ../block_14/block_14.bmodel
end

begin bind.layer_15
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_15
end

begin block_15
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_15/block_15.onnx \
  ../bind.layer_15/weights.npz block_15 -- model_transform.py \
  --model_name block_15 \
  --model_def ../bind.layer_15/block_15.onnx \
  --mlir block_15.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_15.mlir \
  --model block_15.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_15.bmodel
end

begin block_cache_15
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_15/block_cache_15.onnx ../bind.layer_15/weights.npz block_cache_15 -- \
  model_transform.py \
  --model_name block_cache_15 \
  --model_def ../bind.layer_15/block_cache_15.onnx \
  --mlir block_cache_15.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_15.mlir \
  --model block_cache_15.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_15.bmodel
end

begin join.layer_15
exporter python \
  -m compile.combine \
  --bare layer_15.bmodel ../block_cache_15/block_cache_15.bmodel ../block_15/block_15.bmodel
end

begin bind.layer_16
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_16
end

begin block_16
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_16/block_16.onnx \
  ../bind.layer_16/weights.npz block_16 -- model_transform.py \
  --model_name block_16 \
  --model_def ../bind.layer_16/block_16.onnx \
  --mlir block_16.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_16.mlir \
  --model block_16.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_16.bmodel
end

begin block_cache_16
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_16/block_cache_16.onnx ../bind.layer_16/weights.npz block_cache_16 -- \
  model_transform.py \
  --model_name block_cache_16 \
  --model_def ../bind.layer_16/block_cache_16.onnx \
  --mlir block_cache_16.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_16.mlir \
  --model block_cache_16.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_16.bmodel
end

begin join.layer_16
exporter python \
  -m compile.combine \
  --bare layer_16.bmodel ../block_cache_16/block_cache_16.bmodel ../block_16/block_16.bmodel
end

begin bind.layer_17
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_17
end

begin block_17
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_17/block_17.onnx \
  ../bind.layer_17/weights.npz block_17 -- model_transform.py \
  --model_name block_17 \
  --model_def ../bind.layer_17/block_17.onnx \
  --mlir block_17.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_17.mlir \
  --model block_17.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_17.bmodel
end

begin block_cache_17
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_17/block_cache_17.onnx ../bind.layer_17/weights.npz block_cache_17 -- \
  model_transform.py \
  --model_name block_cache_17 \
  --model_def ../bind.layer_17/block_cache_17.onnx \
  --mlir block_cache_17.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_17.mlir \
  --model block_cache_17.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_17.bmodel
end

begin join.layer_17
exporter python \
  -m compile.combine \
  --bare layer_17.bmodel ../block_cache_17/block_cache_17.bmodel ../block_17/block_17.bmodel
end

begin bind.layer_18
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_18
end

begin block_18
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_18/block_18.onnx \
  ../bind.layer_18/weights.npz block_18 -- model_transform.py \
  --model_name block_18 \
  --model_def ../bind.layer_18/block_18.onnx \
  --mlir block_18.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_18.mlir \
  --model block_18.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_18.bmodel
end

begin block_cache_18
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_18/block_cache_18.onnx ../bind.layer_18/weights.npz block_cache_18 -- \
  model_transform.py \
  --model_name block_cache_18 \
  --model_def ../bind.layer_18/block_cache_18.onnx \
  --mlir block_cache_18.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_18.mlir \
  --model block_cache_18.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_18.bmodel
end

begin join.layer_18
exporter python \
  -m compile.combine \
  --bare layer_18.bmodel ../block_cache_18/block_cache_18.bmodel ../block_18/block_18.bmodel
end

begin bind.layer_19
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_19
end

begin block_19
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_19/block_19.onnx \
  ../bind.layer_19/weights.npz block_19 -- model_transform.py \
  --model_name block_19 \
  --model_def ../bind.layer_19/block_19.onnx \
  --mlir block_19.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_19.mlir \
  --model block_19.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_19.bmodel
end

begin block_cache_19
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_19/block_cache_19.onnx ../bind.layer_19/weights.npz block_cache_19 -- \
  model_transform.py \
  --model_name block_cache_19 \
  --model_def ../bind.layer_19/block_cache_19.onnx \
  --mlir block_cache_19.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_19.mlir \
  --model block_cache_19.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_19.bmodel
end

begin join.layer_19
exporter python \
  -m compile.combine \
  --bare layer_19.bmodel ../block_cache_19/block_cache_19.bmodel ../block_19/block_19.bmodel
end

begin bind.layer_20
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_20
end

begin block_20
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_20/block_20.onnx \
  ../bind.layer_20/weights.npz block_20 -- model_transform.py \
  --model_name block_20 \
  --model_def ../bind.layer_20/block_20.onnx \
  --mlir block_20.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_20.mlir \
  --model block_20.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_20.bmodel
end

begin block_cache_20
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_20/block_cache_20.onnx ../bind.layer_20/weights.npz block_cache_20 -- \
  model_transform.py \
  --model_name block_cache_20 \
  --model_def ../bind.layer_20/block_cache_20.onnx \
  --mlir block_cache_20.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_20.mlir \
  --model block_cache_20.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_20.bmodel
end

begin join.layer_20
exporter python \
  -m compile.combine \
  --bare layer_20.bmodel ../block_cache_20/block_cache_20.bmodel ../block_20/block_20.bmodel
end

begin bind.layer_21
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_21
end

begin block_21
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_21/block_21.onnx \
  ../bind.layer_21/weights.npz block_21 -- model_transform.py \
  --model_name block_21 \
  --model_def ../bind.layer_21/block_21.onnx \
  --mlir block_21.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_21.mlir \
  --model block_21.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_21.bmodel
end

begin block_cache_21
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_21/block_cache_21.onnx ../bind.layer_21/weights.npz block_cache_21 -- \
  model_transform.py \
  --model_name block_cache_21 \
  --model_def ../bind.layer_21/block_cache_21.onnx \
  --mlir block_cache_21.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_21.mlir \
  --model block_cache_21.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_21.bmodel
end

begin join.layer_21
exporter python \
  -m compile.combine \
  --bare layer_21.bmodel ../block_cache_21/block_cache_21.bmodel ../block_21/block_21.bmodel
end

begin bind.layer_22
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_22
end

begin block_22
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_22/block_22.onnx \
  ../bind.layer_22/weights.npz block_22 -- model_transform.py \
  --model_name block_22 \
  --model_def ../bind.layer_22/block_22.onnx \
  --mlir block_22.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_22.mlir \
  --model block_22.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_22.bmodel
end

begin block_cache_22
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_22/block_cache_22.onnx ../bind.layer_22/weights.npz block_cache_22 -- \
  model_transform.py \
  --model_name block_cache_22 \
  --model_def ../bind.layer_22/block_cache_22.onnx \
  --mlir block_cache_22.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_22.mlir \
  --model block_cache_22.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_22.bmodel
end

begin join.layer_22
exporter python \
  -m compile.combine \
  --bare layer_22.bmodel ../block_cache_22/block_cache_22.bmodel ../block_22/block_22.bmodel
end

begin bind.layer_23
exporter python -m exporters bind --model /models/qwen2.5-0.5b --skeletons ../trace --group layer_23
end

begin block_23
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_23/block_23.onnx \
  ../bind.layer_23/weights.npz block_23 -- model_transform.py \
  --model_name block_23 \
  --model_def ../bind.layer_23/block_23.onnx \
  --mlir block_23.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_23.mlir \
  --model block_23.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_23.bmodel
end

begin block_cache_23
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_23/block_cache_23.onnx ../bind.layer_23/weights.npz block_cache_23 -- \
  model_transform.py \
  --model_name block_cache_23 \
  --model_def ../bind.layer_23/block_cache_23.onnx \
  --mlir block_cache_23.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_23.mlir \
  --model block_cache_23.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 64 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 2 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_23.bmodel
end

begin join.layer_23
exporter python \
  -m compile.combine \
  --bare layer_23.bmodel ../block_cache_23/block_cache_23.bmodel ../block_23/block_23.bmodel
end

begin combine
exporter python \
  -m compile.combine qwen2.5-0.5b_int4_seq512_bm1684x_2dev.bmodel ../join.embedding/embedding.bmodel \
  ../join.layer_0/layer_0.bmodel ../join.layer_1/layer_1.bmodel ../join.layer_2/layer_2.bmodel \
  ../join.layer_3/layer_3.bmodel ../join.layer_4/layer_4.bmodel ../join.layer_5/layer_5.bmodel \
  ../join.layer_6/layer_6.bmodel ../join.layer_7/layer_7.bmodel ../join.layer_8/layer_8.bmodel \
  ../join.layer_9/layer_9.bmodel ../join.layer_10/layer_10.bmodel ../join.layer_11/layer_11.bmodel \
  ../join.layer_12/layer_12.bmodel ../join.layer_13/layer_13.bmodel ../join.layer_14/layer_14.bmodel \
  ../join.layer_15/layer_15.bmodel ../join.layer_16/layer_16.bmodel ../join.layer_17/layer_17.bmodel \
  ../join.layer_18/layer_18.bmodel ../join.layer_19/layer_19.bmodel ../join.layer_20/layer_20.bmodel \
  ../join.layer_21/layer_21.bmodel ../join.layer_22/layer_22.bmodel ../join.layer_23/layer_23.bmodel \
  ../lm_head/lm_head.bmodel
end

ln -f work/combine/qwen2.5-0.5b_int4_seq512_bm1684x_2dev.bmodel .
