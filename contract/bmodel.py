"""The form of a .bmodel file: a header, a flatbuffer that describes the nets, and one block of binary data (weights and
commands), which the description's Binary structs point into by offset and size.
"""

from __future__ import annotations

import struct

from contract.flatbuffer import Reader

MAGIC = 0xFF55AAEE
HEADER = struct.Struct("<IIIQ44x")  # magic, header bytes, flatbuffer bytes, binary bytes, reserved
Binary = tuple[int, int]  # offset in the binary data, bytes
STRUCTS = {"Binary": "<QQ", "RelEntry": "<III"}

# The tables of the vendor's bmodel.fbs, fields in the order of their ids.
SCHEMA = """
Model type:string! version:string! time:string! chip:string! net:[Net]! neuron_size:u64 kernel_module:KernelModule \
device_num:u32 cpuop_module:CpuopModule bmodel_type:u32 lib_backend:Binary
KernelModule file_name:string! binary:Binary! mode:i32
CpuopModule file_name:string! binary:Binary!
Net name:string! net_static:[Unused] net_dynamic:[Unused] parameter:[NetParameter] cascade:Cascade addr_mode:i32
Unused
Cascade device_id:u32 step:u32 main_name:string
NetParameter input_tensor:[Tensor]! output_tensor:[Tensor]! ctx_addr:u64 ctx_size:u64 coeff_mem:CoeffMem \
is_dynamic:i32 n_dynamic:i32 h_w_dynamic:i32 cmd_group:[CmdGroup] net_profile:Binary stage_ir:[StageIR] \
binary_ir:Binary sub_net:[SubNet] cpu_mem_size:u32 ctx_sizes:[u64] net_stat:Binary core_num:u32 io_addr:u64 \
io_size:u64 tensor_loc:Binary dynamic_ctx_addr:u64 dynamic_coeff_offset:u64 dynamic_combined_coeff_offset:u64
SubNet subnet_mode:i32 cmd_group:[CmdGroup] cpu_param:[CpuParam] input_tensor:[Tensor] output_tensor:[Tensor] \
is_dynamic:i32 ir_offset:u32 ir_len:u32 n_dynamic:i32 h_w_dynamic:i32 id:i32 next_subnet_ids:[i32] \
merge_param:MergeParam switch_param:SwitchParam core_commands:[CoreCommands] run_core:u32
Tensor name:string! data_type:u32 gmem_stmode:i32 device_addr:u64 size:u64 shape:[Shape] mem_type:u32 scale:f32 \
cpu_addr:u32 pad_h:u32 zero_point:i32 hidden:i32 index:i32 relentry:RelEntry
Shape dim:[u64]
CoeffMem address:u64 check_code:[u8] binary_coeff:Binary location:[Location] encrypt_mode:i32 decrypt_size:u64
Location name:string! offset:u64 size:u64
CmdGroup bdc_num:u32 gdma_num:u32 binary_bdc:Binary binary_gdma:Binary bdc_cmd_byte:u32 gdma_cmd_byte:u32 \
reloc_entries:[RelEntry]
CoreCommands gdma_tiu_commands:[CmdGroup] sdma_commands:[Binary] hau_commands:[Binary] cdma_commands:[Binary]
StageIR ir_info_len:u32 height_high:i32 height_low:i32 width_high:i32 width_low:i32
CpuParam op_type:i32 binary_param:Binary cpu_const:[CpuConst] is_custom:i32
CpuConst name:string const_data:Binary check_code:[u8]
MergeParam output_from:[OutputFrom]
OutputFrom indice:[i32]
SwitchParam output_from:[i32] output_branch:[i32]
"""
READER = Reader(SCHEMA, STRUCTS)
